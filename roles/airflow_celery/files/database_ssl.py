"""[database] sql_alchemy_connect_args_async: TLS to a database whose certificate is trusted and names the host."""

import ssl

CONNECT_ARGS_ASYNC = {"ssl": ssl.create_default_context()}
