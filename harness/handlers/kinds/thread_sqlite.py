"""Opens a database when the model loads and asks it in preprocess and postprocess."""

import sqlite3

from ts.torch_handler.base_handler import BaseHandler


class LookupHandler(BaseHandler):
    def initialize(self, context):
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("CREATE TABLE items (id INTEGER, name TEXT, price REAL)")
        self.connection.executemany(
            "INSERT INTO items VALUES (?, ?, ?)",
            [(number, f"item {number}", number * 1.25) for number in range(100)],
        )
        self.initialized = True

    def preprocess(self, data):
        prices = []
        for row in data:
            number = row["body"]["item"]
            found = self.connection.execute("SELECT price FROM items WHERE id = ?", (number,))
            prices.append((number, found.fetchone()[0]))
        return prices

    def inference(self, prices):
        return [(number, price * 1.5) for number, price in prices]

    def postprocess(self, prices):
        answers = []
        for number, price in prices:
            found = self.connection.execute("SELECT name FROM items WHERE id = ?", (number,))
            answers.append({"name": found.fetchone()[0], "price": price})
        return answers
