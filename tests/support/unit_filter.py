"""Runs a program without system calls that the systemd unit refuses: python -m tests.support.unit_filter COMMAND...

Of `SystemCallFilter=~@privileged @resources` those are refused that a program of ours, or a library, may call.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# Their numbers on x86_64. `systemd-analyze syscall-filter @resources` lists their names.
REFUSED = {
    "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "setrlimit": 160, "sched_setaffinity": 203,
    "mbind": 237, "set_mempolicy": 238, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279,
    "sched_setattr": 314, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setgroups": 116,
}  # fmt: skip
POSSIBLE = sys.platform == "linux" and platform.machine() == "x86_64"
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF
X86_64, ALLOW, ERROR = 0xC000003E, 0x7FFF0000, 0x00050000


def refuse():
    """Let this process, and all that it starts, get EPERM from these calls from now on."""
    calls = sorted(REFUSED.values())
    refusal = len(calls) + 4
    program = [(LOAD, 0, 0, 4), (EQUAL, 0, len(calls) + 1, X86_64), (LOAD, 0, 0, 0)]
    program += [(EQUAL, refusal - number - 4, 0, call) for number, call in enumerate(calls)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERROR | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (SET_SECCOMP, FILTER, ctypes.c_char_p(described), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])
