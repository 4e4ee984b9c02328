"""A helper of context_helper.py, packed with --extra-files."""


class Tenants:
    def __init__(self, context):
        self._context = context

    def of(self, index):
        processor = self._context._request_processor[index]
        return processor.get_request_property("x-user")

    def discount(self, index):
        return sum(map(ord, self.of(index))) % 10
