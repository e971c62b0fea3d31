//! Seccomp by effect: containers whose process asks the kernel one thing and ends with the errno it got.
//!
//! The processes are programs of a few instructions, made here, so that nothing but the profile decides.
#![forbid(unsafe_code)]
#![cfg(target_arch = "x86_64")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Outcome, Tare, eventually};

/// Whose numbers a program calls by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abi {
    X86_64,
    I386,
}

const GETPPID: u32 = 110;
const GETPPID_I386: u32 = 64;
/// How a shell tells of SIGSYS.
const SIGSYS: i32 = 128 + 31;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// What a process needs that makes one call and ends, and all that ours needs under the filter. Go's runtime
/// would want more, so what is tried with this alone is not for others.
const NEEDED: [&str; 2] = ["execve", "exit"];

/// A bundle whose process calls `number`.
fn bundle(profile: Value, abi: Abi, number: u32, args: [u64; 3]) -> Bundle {
    let bundle = Bundle::new();
    let program = bundle.rootfs().join("bin/ask");
    let image = if abi == Abi::I386 { elf32(number, args) } else { elf64(number, args) };
    fs::write(&program, image).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    bundle.config(|config| {
        config["process"]["args"] = json!(["/bin/ask"]);
        config["linux"]["seccomp"] = profile;
    });
    bundle
}

/// How it ended.
#[track_caller]
fn asks(profile: Value, abi: Abi, number: u32, args: [u64; 3]) -> i32 {
    let bundle = bundle(profile, abi, number, args);
    let outcome: Outcome = bundle.oci(["run", bundle.id()]).run();
    assert_eq!(outcome.stderr(), "", "the runtime has nothing to complain");
    outcome.code()
}

fn runs_i386() -> bool {
    asks(
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"] }),
        Abi::I386,
        GETPPID_I386,
        [0; 3],
    ) == 0
}

#[test]
fn what_is_newer_than_the_profile_is_not_there() {
    if !is_ours() {
        return;
    }
    let profile = |default: &str| {
        json!({ "defaultAction": default, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
            { "names": NEEDED, "action": "SCMP_ACT_ALLOW" },
            { "names": ["close_range"], "action": "SCMP_ACT_ALLOW" },
        ] })
    };
    for (default, refused) in
        [("SCMP_ACT_ERRNO", EPERM), ("SCMP_ACT_KILL_PROCESS", SIGSYS), ("SCMP_ACT_TRAP", SIGSYS)]
    {
        let asks = |abi, number| asks(profile(default), abi, number, [u64::MAX; 3]);
        // 436 is close_range(2), and 437 openat2(2), which this kernel has.
        assert_eq!(asks(Abi::X86_64, GETPPID), refused, "{default}");
        for number in [437, 500, 1000] {
            assert_eq!(asks(Abi::X86_64, number), ENOSYS, "{default} {number}");
        }
        if runs_i386() {
            assert_eq!(asks(Abi::I386, GETPPID_I386), refused, "{default}");
            assert_eq!(asks(Abi::I386, 500), ENOSYS, "{default}");
        }
    }
}

#[test]
fn each_action_does_what_it_says() {
    let actions = [
        ("SCMP_ACT_KILL", SIGSYS),
        ("SCMP_ACT_KILL_THREAD", SIGSYS),
        ("SCMP_ACT_KILL_PROCESS", SIGSYS),
        ("SCMP_ACT_TRAP", SIGSYS),
        ("SCMP_ACT_ERRNO", EPERM),
        // Nobody traces it.
        ("SCMP_ACT_TRACE", ENOSYS),
        ("SCMP_ACT_LOG", 0),
    ];
    for (action, expected) in actions {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["getppid"], "action": action },
        ] });
        assert_eq!(asks(profile, Abi::X86_64, GETPPID, [0; 3]), expected, "{action}");
    }
    if !is_ours() {
        return;
    }
    let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 55, "syscalls": [
        { "names": NEEDED, "action": "SCMP_ACT_ALLOW" },
        { "names": ["close_range"], "action": "SCMP_ACT_ALLOW" },
        { "names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 56 },
        { "names": ["getuid"], "action": "SCMP_ACT_ALLOW" },
    ] });
    for (number, errno) in [(GETPPID, 55), (39, 56), (102, 0)] {
        assert_eq!(asks(profile.clone(), Abi::X86_64, number, [0; 3]), errno, "{number}");
    }
}

#[test]
fn each_operator_compares_all_64_bits() {
    const BIG: u64 = 7 << 32 | 5;
    // operator, value, second value, an argument for which it holds, and one for which it does not
    let rows = [
        ("SCMP_CMP_NE", BIG, 0, 5, BIG),
        ("SCMP_CMP_LT", BIG, 0, 6 << 32 | 9, BIG),
        ("SCMP_CMP_LE", BIG, 0, BIG, BIG + 1),
        ("SCMP_CMP_EQ", BIG, 0, BIG, 5),
        ("SCMP_CMP_GE", BIG, 0, BIG, 7 << 32 | 4),
        ("SCMP_CMP_GT", BIG, 0, 8 << 32, BIG),
        ("SCMP_CMP_MASKED_EQ", 0xff << 32 | 0xf, BIG, 0x9907 << 32 | 0xf5, 5),
    ];
    for (op, value, two, holds, fails) in rows {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
            "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
            "args": [{ "index": 1, "value": value, "valueTwo": two, "op": op }],
        }] });
        for (argument, expected) in [(holds, 77), (fails, 0)] {
            let code = asks(profile.clone(), Abi::X86_64, GETPPID, [0, argument, 0]);
            assert_eq!(code, expected, "{op} {argument:#x}");
        }
    }
}

#[test]
fn a_profile_is_for_the_architectures_that_it_lists() {
    if !runs_i386() {
        return;
    }
    let profile = |architectures: Value| {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": [
            { "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 },
        ] })
    };
    let both = profile(json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    assert_eq!(asks(both.clone(), Abi::X86_64, GETPPID, [0; 3]), 77);
    assert_eq!(asks(both, Abi::I386, GETPPID_I386, [0; 3]), 77);
    let one = profile(json!(["SCMP_ARCH_X86_64"]));
    assert_eq!(
        asks(one, Abi::I386, GETPPID_I386, [0; 3]),
        SIGSYS,
        "an ABI that is not listed is no way round"
    );
}

/// The flags that the kernel was given, as strace(1) saw them.
fn flags(bundle: &Bundle) -> Vec<u32> {
    let log = bundle.work("strace");
    let call = bundle.oci(["run", bundle.id()]).into_command();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-X", "raw", "-e", "trace=seccomp", "-e", "signal=none", "-o"]).arg(&log);
    strace.arg(call.get_program()).args(call.get_args());
    strace.current_dir(bundle.path());
    Tare::of(strace).run().ok();
    let text = fs::read_to_string(&log).expect("what strace saw");
    // PID seccomp(0x1, FLAGS, …), where 1 is SECCOMP_SET_MODE_FILTER
    let calls = text.lines().filter_map(|line| line.split_once("seccomp(0x1, ")?.1.split(',').next());
    calls.map(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).expect("a number")).collect()
}

#[test]
fn flags_reach_the_kernel() {
    if !is_ours() {
        return;
    }
    let rows: [(&[&str], u32); 5] = [
        (&[], 0),
        (&["SECCOMP_FILTER_FLAG_LOG"], 2),
        (&["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 4),
        // There is one thread to load it, so there is none to synchronise with.
        (&["SECCOMP_FILTER_FLAG_TSYNC"], 0),
        (&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"], 6),
    ];
    for (names, expected) in rows {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": names, "syscalls": [
            { "names": ["setsid"], "action": "SCMP_ACT_ERRNO" },
        ] });
        let bundle = bundle(profile, Abi::X86_64, GETPPID, [0; 3]);
        assert_eq!(flags(&bundle), [expected], "{names:?}");
    }
}

/// The agent of `seccomp_agent.py`, for as long as the test lasts.
struct Agent {
    child: Child,
    log: std::path::PathBuf,
}

impl Agent {
    fn start(bundle: &Bundle, rules: &[&str]) -> Agent {
        let (socket, log) = (bundle.work("agent"), bundle.work("agent.log"));
        let child = Command::new("/usr/bin/python3")
            .args(["-c", include_str!("seccomp_agent.py")])
            .arg(&socket)
            .args(rules)
            .stdin(Stdio::null())
            .stdout(File::create(&log).expect("a file"))
            .spawn()
            .expect("python3");
        eventually("the agent listens", || socket.exists());
        Agent { child, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("what the agent said")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_agent(bundle: &Bundle, names: &[&str], flags: &[&str]) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
        "listenerPath": bundle.work("agent"), "listenerMetadata": "of the test",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }] })
}

#[test]
fn the_agent_decides_for_the_container_and_for_what_is_executed_in_it() {
    if !is_ours() {
        return;
    }
    let bundle = bundle(Value::Null, Abi::X86_64, GETPPID, [0; 3]);
    let profile = with_agent(&bundle, &["getppid", "sethostname"], &[]);
    bundle.config(|config| {
        config["linux"]["seccomp"] = profile;
        config["process"]["args"] = json!(["sh", "-c", "/bin/ask; echo $?; hostname x; hostname; sleep 600"]);
        let caps = json!(["CAP_SYS_ADMIN", "CAP_KILL"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = caps.clone();
        }
    });
    let agent = Agent::start(&bundle, &["110=42", "170=go"]);
    bundle.detached(&[]);
    eventually("the container has asked", || bundle.printed().lines().count() == 2);
    assert_eq!(bundle.printed().trim(), "42\nx");
    bundle.exec(&[], "/bin/ask; echo $?").prints("42");
    let said = agent.said();
    let listeners: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("listener ")).collect();
    assert_eq!(listeners.len(), 2, "one of the container, one of the process executed in it: {said}");
    assert_eq!(listeners[0], r#"[["seccompFd"], "of the test", "creating", 1]"#);
    assert!(listeners[1].starts_with(r#"[["seccompFd"], "of the test", "running", "#), "{said}");
    assert!(said.contains("asked 170 go") && said.matches("asked 110 42").count() >= 2, "{said}");
}

#[test]
fn one_that_waits_for_the_agent_is_interrupted_unless_the_profile_says_otherwise() {
    if !is_ours() {
        return;
    }
    for (flags, expected) in
        [(vec![], "interrupted"), (vec!["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], "waits")]
    {
        let bundle = Bundle::sh("trap 'echo caught' USR1; umask 027; echo done");
        let profile = with_agent(&bundle, &["umask"], &flags);
        bundle.config(|config| config["linux"]["seccomp"] = profile);
        let agent = Agent::start(&bundle, &["95=signal"]);
        let out = bundle.oci(["run", bundle.id()]).run().ok();
        assert!(out.contains("caught") && out.contains("done"), "{out}");
        assert!(agent.said().lines().any(|line| line == expected), "{flags:?}: {}", agent.said());
    }
}

/// A static program that makes one syscall and ends with its errno, or 0.
fn elf64(number: u32, args: [u64; 3]) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    // mov rdi, rsi, rdx
    for (register, arg) in [0xbf, 0xbe, 0xba].iter().zip(args) {
        code.extend([0x48, *register]);
        code.extend(arg.to_le_bytes());
    }
    code.extend([0x0f, 0x05]); // syscall
    // xor edi, edi; test rax, rax; jns +4; neg eax; mov edi, eax
    code.extend([0x31, 0xff, 0x48, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0x89, 0xc7]);
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // mov eax, 60 (exit); syscall

    const BASE: u64 = 0x40_0000;
    const HEAD: u64 = 64 + 56;
    let size = HEAD + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [BASE + HEAD, 64, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    [0, BASE, BASE, size, size, 0x1000].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}

/// As [`elf64`], of 32 bits.
fn elf32(number: u32, args: [u64; 3]) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    // mov ebx, ecx, edx; the upper halves are cut off
    for (opcode, arg) in [0xbb, 0xb9, 0xba].iter().zip(args) {
        code.push(*opcode);
        code.extend((arg as u32).to_le_bytes());
    }
    code.extend([0xcd, 0x80]); // int 0x80
    // xor ebx, ebx; test eax, eax; jns +4; neg eax; mov ebx, eax
    code.extend([0x31, 0xdb, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0x89, 0xc3]);
    code.extend([0xb8, 1, 0, 0, 0, 0xcd, 0x80]); // mov eax, 1 (exit); int 0x80

    const BASE: u32 = 0x0804_8000;
    const HEAD: u32 = 52 + 32;
    let size = HEAD + code.len() as u32;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    [BASE + HEAD, 52, 0, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    [1, 0, BASE, BASE, size, size, 5, 0x1000].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(code);
    elf
}
