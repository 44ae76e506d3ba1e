"""Lists the chunks of a storage node's disk by docs/formats alone: no code of Holdfast, nothing but Python.

    python3 read_disk.py DIR

Reads the extent files of DIR in order, follows puts, deletes and quarantines, and checks every checksum on the way: headers,
groups, records, blocks, roots. Prints one line for each chunk that is held, sorted by id, and exits with 1 if any of them
does not match.
"""

import json
import os
import re
import struct
import sys

MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
SECTOR = 4096
BLOCK = 65536


def rotl(value, bits):
    return ((value << bits) | (value >> (64 - bits))) & MASK


def rnd(acc, lane):
    return rotl((acc + lane * P2) & MASK, 31) * P1 & MASK


def xxh64(data):
    """XXH64 with seed 0, as the 8 little-endian bytes that are stored."""
    at, size = 0, len(data)
    if size >= 32:
        v = [(P1 + P2) & MASK, P2, 0, (-P1) & MASK]
        lanes = struct.unpack_from("<%dQ" % (size // 32 * 4), data)
        for i in range(0, len(lanes), 4):
            v = [rnd(v[k], lanes[i + k]) for k in range(4)]
        at = size // 32 * 32
        h = (rotl(v[0], 1) + rotl(v[1], 7) + rotl(v[2], 12) + rotl(v[3], 18)) & MASK
        for lane in v:
            h = ((h ^ rnd(0, lane)) * P1 + P4) & MASK
    else:
        h = P5
    h = (h + size) & MASK
    while at + 8 <= size:
        h = (rotl(h ^ rnd(0, struct.unpack_from("<Q", data, at)[0]), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= size:
        h = (rotl(h ^ struct.unpack_from("<I", data, at)[0] * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = rotl(h ^ byte * P5 & MASK, 11) * P1 & MASK
    h = (h ^ h >> 33) * P2 & MASK
    h = (h ^ h >> 29) * P3 & MASK
    return struct.pack("<Q", h ^ h >> 32)


class Fields:
    """A body in the notation of the documents."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def uint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def fixed(self, size):
        self.at += size
        return self.data[self.at - size : self.at]

    def bytes(self):
        return self.fixed(self.uint())

    def location(self):
        return tuple(self.uint() for _ in range(5))

    def frees(self):
        return [(self.uint(), self.uint(), self.uint(), self.uint()) for _ in range(self.uint())]


def extent_header(data, number):
    for sector in (data[:SECTOR], data[-SECTOR:]):
        if sector[:8] == b"HFEXTENT" and xxh64(sector[:64]) == sector[64:72]:
            version, _, sequence, _ = struct.unpack_from(">IIQQ", sector, 8)
            if version != 1:
                sys.exit("extent %d: version %d" % (number, version))
            if sequence == number:
                return {"disk": sector[32:48], "nonce": sector[48:64]}
    return None


def groups(data, number, nonce):
    at = SECTOR
    while at + SECTOR < len(data):
        head = data[at : at + 96]
        whole = head[:4] == b"HFGR" and xxh64(nonce + head[:88]) == head[88:96]
        if not whole or struct.unpack_from(">IQQ", head, 4) != (1, number, at):
            at += SECTOR
            continue
        frames_bytes, frame_count, payload_bytes = struct.unpack_from(">IIQ", head, 56)
        padded = (96 + frames_bytes + SECTOR - 1) // SECTOR * SECTOR
        yield at, head[88:96], frame_count, padded, payload_bytes
        at += padded + payload_bytes


def records(data, nonce, group):
    at, checksum, count, padded, payload_bytes = group
    frame = at + 96
    for _ in range(count):
        body_length, inline_length = struct.unpack_from(">II", data, frame)
        body = data[frame + 16 : frame + 16 + body_length]
        if xxh64(nonce + checksum + data[frame : frame + 8] + body) != data[frame + 8 : frame + 16]:
            sys.exit("group at %d: a record does not match its checksum" % at)
        payload = at + padded if payload_bytes else frame + 16 + body_length
        yield Fields(body), payload
        frame += 16 + body_length + inline_length


def verdict(data, chunk):
    length, root, sums, payload = chunk["length"], chunk["root"], chunk["sums"], chunk["payload"]
    if xxh64(struct.pack("<Q", length) + sums) != root:
        return "the root does not match"
    for block in range(0, (length + BLOCK - 1) // BLOCK):
        end = min((block + 1) * BLOCK, length)
        if xxh64(data[payload + block * BLOCK : payload + end]) != sums[block * 8 : block * 8 + 8]:
            return "block %d does not match" % block
    return "verified"


def main(directory):
    with open(os.path.join(directory, "identity"), encoding="utf-8") as file:
        identity = json.load(file)
    if identity["format"] != 1:
        sys.exit("disk format %d" % identity["format"])
    names = ["format", "diskId", "clusterId", "nodeId"]
    values = [str(identity.get(name, "-")) for name in names] + [
        str(identity[name]) for name in ["clusterIncarnation"] if name in identity
    ]
    if xxh64(" ".join(values).encode()).hex() != identity["check"]:
        sys.exit("the identity does not match its checksum")
    print("disk %s of node %s" % (identity["diskId"], identity.get("nodeId", "-")))
    held, extents = {}, {}
    for name in sorted(os.listdir(directory)):
        match = re.fullmatch(r"extent-(\d+)\.log", name)
        if not match:
            continue
        number = int(match.group(1))
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        header = extent_header(data, number)
        if header is None:
            continue
        if header["disk"].hex() != identity["diskId"]:
            sys.exit("extent %d is of another disk" % number)
        extents[number] = data
        for group in groups(data, number, header["nonce"]):
            for fields, payload in records(data, header["nonce"], group):
                tag, chunk = fields.uint(), fields.uint()
                if tag == 1:
                    length, lease = fields.uint(), fields.uint()
                    root, sums = fields.fixed(8), fields.bytes()
                    held[chunk] = dict(length=length, lease=lease, root=root, sums=sums, payload=payload, extent=number)
                elif tag == 2:
                    held.pop(chunk, None)
                elif tag == 3:
                    extent, _, _, place, _ = fields.location()
                    if chunk in held and (held[chunk]["extent"], held[chunk]["payload"]) == (extent, place):
                        del held[chunk]
                else:
                    sys.exit("unknown record %d" % tag)
    bad = 0
    for chunk, found in sorted(held.items()):
        result = verdict(extents[found["extent"]], found)
        bad += result != "verified"
        print("chunk %d: %d bytes, lease %d, root %s, %s" % (chunk, found["length"], found["lease"], found["root"].hex(), result))
    sys.exit(1 if bad else 0)


main(sys.argv[1])
