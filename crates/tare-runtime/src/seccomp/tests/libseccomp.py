"""libseccomp's mouth for the test beside it: a JSON request a line in, a JSON answer a line out.

It adds rules in the order given and knows nothing of profiles: what a runtime makes of one is for the caller to say.
"""

import json
import os
import signal
import sys

import seccomp


def arch(name):
    return getattr(seccomp.Arch, name)


def signed(action):
    """As the bindings want a word with its highest bit set."""
    return action - (1 << 32) if action >= 1 << 31 else action


def numbers(request):
    """Every syscall number of an architecture that the library has a name for, the private ones included."""
    found = {}
    for block in ([0, 1200], [0xF0000, 0xF0010], [0x40000000, 0x40000400]):
        for number in range(*block):
            try:
                found[number] = seccomp.resolve_syscall(arch(request["numbers"]), number).decode()
            except ValueError:
                pass
    return found


def resolve(request):
    """What the library's own look-up by name says, -1 for a name that it does not know."""
    return {name: seccomp.resolve_syscall(arch(request["arch"]), name) for name in request["resolve"]}


def compile(request):
    """The program, and which rules (by their index) the library would not take, with its errno."""
    filter = seccomp.SyscallFilter(signed(request["default"]))
    for name in request["arches"]:
        if not filter.exist_arch(arch(name)):
            filter.add_arch(arch(name))
    if "X86_64" not in request["arches"]:
        filter.remove_arch(arch("X86_64"))
    filter.set_attr(seccomp.Attr.CTL_OPTIMIZE, request["optimize"])
    refused = []
    for index, (name, action, conditions) in enumerate(request["rules"]):
        args = [
            seccomp.Arg(arg, getattr(seccomp, operator), value, second)
            for arg, operator, value, second in conditions
        ]
        try:
            filter.add_rule(signed(action), name, *args)
        except RuntimeError as error:
            refused.append([index, str(error)])
    file = os.memfd_create("filter")
    with os.fdopen(file, "r+b") as file:
        filter.export_bpf(file)
        file.seek(0)
        return {"program": file.read().hex(), "refused": refused}


# Otherwise what this kernel lacks would be missing from the filters.
seccomp.set_api(6)
for line in sys.stdin:
    request = json.loads(line)
    if "numbers" in request:
        answer = numbers(request)
    elif "resolve" in request:
        answer = resolve(request)
    else:
        # The library (2.5.4) never comes back from some sets of rules. The signal ends this process: after so much
        # time on the processor, for a machine under load is slow as well.
        signal.setitimer(signal.ITIMER_PROF, 2)
        answer = compile(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(answer), flush=True)
