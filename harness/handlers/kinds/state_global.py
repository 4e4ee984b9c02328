"""Keeps the language of each request in a global list of the module between two stages."""

from ts.torch_handler.base_handler import BaseHandler

LANGUAGES = []

GREETINGS = {"en": "Hello", "de": "Hallo", "fr": "Salut"}


class TranslationHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        global LANGUAGES  # noqa: PLW0603
        bodies = [row.get("data") or row.get("body") for row in data]
        names = [body["name"] for body in bodies]
        LANGUAGES = [body["language"] for body in bodies]
        return names

    def inference(self, names):
        return [name.title() for name in names]

    def postprocess(self, names):
        return [f"{GREETINGS[LANGUAGES[i]]}, {name}" for i, name in enumerate(names)]
