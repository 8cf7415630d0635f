"""Manage the users of the consultation page and the review form: skingpt4 users."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skingpt4.support.cli import make_parser, read_password
from skingpt4.support.errors import reported

if TYPE_CHECKING:
    from skingpt4.server.access.users import Users

EXAMPLES = """examples:
  skingpt4 users --file users.json add anna --role clinician
  skingpt4 users --file users.json add bert --role reviewer < password.txt
  skingpt4 users --file users.json disable anna
  skingpt4 users --file users.json list

A password is asked for at a terminal and read as one line from a pipe; it is never an argument. A running server sees
every change at its next request: a user who is disabled, or has a new password or role, is logged out at once."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from skingpt4.server.access.users import ROLES

    result = make_parser("Manage the users of the consultation page and the review form.", EXAMPLES)
    result.add_argument("--file", required=True, help="the users file, as given to a server with --users")
    result.add_argument("--audit-log", metavar="FILE", help="append each change to this audit log")
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    roles = "; ".join(f"{role}: {what}" for role, what in ROLES.items())

    def add_command(name: str, what: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("name", help="of the user")
        return command

    add = add_command("add", "add a user; the file is made with the first one")
    add.add_argument("--role", required=True, choices=tuple(ROLES), help=roles)
    add.add_argument("--no-password", action="store_true",
        help="only a proxy lets this user in (--auth-header)")  # fmt: skip
    add_command("passwd", "set another password")
    add_command("role", "set another role").add_argument("role", choices=tuple(ROLES), help=roles)
    add_command("disable", "let a user log in no longer, and end open log-ins")
    add_command("enable", "let a disabled user log in again")
    listed = commands.add_parser("list", help="list all users", description="list all users")
    listed.add_argument("--json", action="store_true", help="one JSON object a line, without hashes")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Change or list the users; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.server.access.users import Users
        from skingpt4.server.audit import AuditLog

        if args.command == "list":
            _print_users(Users(args.file), args.json)
            return 0
        log = AuditLog(args.audit_log) if args.audit_log else None
        facts = {"role": args.role} if args.command in ("add", "role") else {}

        def log_change(name: str) -> None:
            if log is not None:
                log.append(f"user_{args.command}", user=name, by=getpass.getuser(), **facts)

        users = Users(args.file, log_change)
        if args.command == "add":
            users.add(args.name, args.role, None if args.no_password else read_password(args.name))
            done = f"was added as {args.role}"
        elif args.command == "passwd":
            users.require(args.name)
            users.set_password(args.name, read_password(args.name))
            done = "has a new password"
        elif args.command == "role":
            users.set_role(args.name, args.role)
            done = f"is now {args.role}"
        else:
            users.set_enabled(args.name, args.command == "enable")
            done = f"is {args.command}d"
        print(f"{args.name} {done}")
    return status.code


def _print_users(users: Users, as_json: bool) -> None:
    for user in users.all().values():
        how = "password" if user.password else "proxy only"
        if as_json:
            row = {"name": user.name, "role": user.role, "enabled": user.enabled, "log_in": how}
            print(json.dumps(row | {"created": user.created}))
        else:
            state = "enabled" if user.enabled else "disabled"
            print(f"{user.name:24s} {user.role:14s} {state:9s} {how:11s} since {user.created}")


if __name__ == "__main__":
    sys.exit(main())
