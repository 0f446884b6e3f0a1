"""vLLM's own `serve`, called as a library: the CPU build has no working `vllm` console script.

python loadtest/plain_server.py MODEL [flags of vllm serve]
"""

from __future__ import annotations

import sys

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(words: list[str]) -> None:
    """Parse and serve as vLLM's own main does."""
    cli_env_setup()
    command = ServeSubcommand()
    parser = FlexibleArgumentParser(description="plain vLLM")
    command.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    args = parser.parse_args(["serve", *words])
    command.validate(args)
    command.cmd(args)


if __name__ == "__main__":
    main(sys.argv[1:])
