"""A tokenizer and n-grams, as torchtext's are used."""


def get_tokenizer(_name):
    return str.split


def ngrams_iterator(tokens, ngrams):
    yield from tokens
    for length in range(2, ngrams + 1):
        for start in range(len(tokens) - length + 1):
            yield " ".join(tokens[start : start + length])
