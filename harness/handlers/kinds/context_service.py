"""A module with a function `handle` and a service in a global, which is given the context."""

from ts.torch_handler.base_handler import BaseHandler


class SummaryService(BaseHandler):
    def __init__(self):
        super().__init__()
        self._context = None
        self.initialized = False

    def initialize(self, context):
        self.manifest = context.manifest
        self.initialized = True

    def preprocess(self, data):
        rows = []
        for i, row in enumerate(data):
            body = row.get("data") or row.get("body")
            rows.append((self._context.get_request_header(i, "x-user"), body["numbers"]))
        return rows

    def inference(self, rows):
        return [(user, sum(numbers), max(numbers)) for user, numbers in rows]

    def postprocess(self, rows):
        answers = []
        for i, (user, total, most) in enumerate(rows):
            self._context.set_response_header(i, "x-total", str(total))
            answers.append({"user": user, "total": total, "most": most})
        return answers


_service = SummaryService()


def handle(data, context):
    if not _service.initialized:
        _service.initialize(context)

    if data is None:
        return None

    _service._context = context
    data = _service.preprocess(data)
    data = _service.inference(data)
    return _service.postprocess(data)
