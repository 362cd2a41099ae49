"""What a person can mend: the command line prints these as one line, without a traceback, and exits with code 2."""


class UserError(Exception):
    """A mistake in what was asked for; the message says what was got, what is allowed and what to do."""
