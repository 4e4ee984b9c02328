"""The three methods of each workload. A worker finds its workload's file as `stages`."""
