"""The checker pytest runs on every annotated function: beartype, with int accepted for float as type checkers do."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
