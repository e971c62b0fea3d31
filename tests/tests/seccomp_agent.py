"""A seccomp agent for the tests: takes listeners from a socket and answers what comes through them.

Arguments: the socket's path, then rules "NUMBER=ANSWER" for syscalls. ANSWER is an errno, "go" for "let it happen", or
"signal": send SIGUSR1 to the one that waits, say whether it still waits, then let it happen.
What it takes and does it prints, a line each.
"""

import array
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

# linux/seccomp.h: SECCOMP_IOCTL_NOTIF_RECV, _SEND and _ID_VALID, for the sizes that they have had since Linux 5.0.
RECV, SEND, ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
CONTINUE = 1


def say(*words):
    print(*words, flush=True)


def still_waits(listener, id):
    try:
        fcntl.ioctl(listener, ID_VALID, struct.pack("Q", id))
        return True
    except FileNotFoundError:
        return False


def serve(listener):
    signalled = False
    while True:
        question = array.array("B", bytes(80))
        try:
            fcntl.ioctl(listener, RECV, question)
        except FileNotFoundError:
            # It was interrupted before we came to read it, or nobody is left to ask.
            time.sleep(0.01)
            continue
        id, pid, _, number = struct.unpack_from("QIIi", question)
        answer = rules.get(number, "go")
        say("asked", number, answer)
        error, flags = (0, CONTINUE) if answer in ("go", "signal") else (-int(answer), 0)
        if answer == "signal" and not signalled:
            signalled = True
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.3)
            say("waits" if still_waits(listener, id) else "interrupted")
        try:
            fcntl.ioctl(listener, SEND, struct.pack("QqiI", id, 0, error, flags))
        except FileNotFoundError:
            pass


rules = dict((int(number), answer) for number, answer in (rule.split("=") for rule in sys.argv[2:]))
place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
place.bind(sys.argv[1])
place.listen()
while True:
    connection, _ = place.accept()
    message, files, _, _ = socket.recv_fds(connection, 65536, 4)
    state = json.loads(message)
    say("listener", json.dumps([state["fds"], state.get("metadata"), state["state"]["status"], len(files)]))
    threading.Thread(target=serve, args=(files[0],), daemon=True).start()
