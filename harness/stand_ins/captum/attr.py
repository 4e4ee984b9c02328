"""Classes that can be made; nothing is explained in these tests."""


class IntegratedGradients:
    def __init__(self, *args):
        pass


class LayerIntegratedGradients(IntegratedGradients):
    pass


class TokenReferenceBase(IntegratedGradients):
    pass
