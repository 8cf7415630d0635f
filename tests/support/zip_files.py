"""Zip files that claim far more than they hold."""

import struct
import zipfile


def write_bomb(path, name):
    """A zip file whose index says that its only member, a few bytes, becomes four gigabytes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, bytes(1000), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 2**32 - 2)  # PKWARE's APPNOTE, 4.3.12
    path.write_bytes(data)
    return path
