"""The sizes of micro-batches: what calls cost, which plan is fastest; no threads, no TorchServe."""
