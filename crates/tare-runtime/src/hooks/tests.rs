use std::fs::File;

use oci_spec::runtime::HookBuilder;
use serde_json::{Value, json};

use super::*;

fn hook(script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    HookBuilder::default().path("/bin/sh").args(args).build().unwrap()
}

fn run_in(folder: &Path, hooks: &[Hook]) -> Result<()> {
    let annotations = HashMap::from([("long".to_owned(), "x".repeat(300_000))]);
    let state = HookState {
        oci_version: "1.3.0",
        id: "c1",
        status: "creating",
        pid: 4711,
        bundle: Path::new("/bundle"),
        annotations: Some(&annotations),
    };
    run("createRuntime", hooks, &state, folder)
}

fn run_all(hooks: &[Hook]) -> Result<()> {
    run_in(Path::new("/"), hooks)
}

/// What a hook writes into the file `out` of its folder.
fn said(hook: Hook) -> String {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &[hook]).unwrap();
    std::fs::read_to_string(folder.path().join("out")).unwrap()
}

#[test]
fn its_environment_is_the_specs_and_nothing_else() {
    // As the shell itself got it: its children get variables of the shell's own.
    let script = hook("/bin/cat /proc/$$/environ > out");
    let with = |env: &[&str]| {
        let mut hook = script.clone();
        hook.set_env(Some(env.iter().map(|pair| (*pair).to_owned()).collect()));
        hook
    };
    assert_eq!(said(with(&["A=1", "LD_SHOW=2"])), "A=1\0LD_SHOW=2\0");
    assert_eq!(said(with(&[])), "");
    assert_eq!(said(script), "");
}

#[test]
fn its_stdin_is_the_whole_state() {
    for script in ["cat > out", "cat /dev/stdin > out"] {
        let state: Value = serde_json::from_str(&said(hook(script))).unwrap();
        assert_eq!(state["annotations"]["long"].as_str().unwrap().len(), 300_000);
        let want = json!({"ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 4711, "bundle": "/bundle"});
        for (key, value) in want.as_object().unwrap() {
            assert_eq!(&state[key], value, "{key}");
        }
    }
}

#[test]
fn a_state_without_pid_and_annotations_has_no_such_keys() {
    let state = HookState {
        oci_version: "1.3.0",
        id: "c1",
        status: "stopped",
        pid: 0,
        bundle: Path::new("/b"),
        annotations: None,
    };
    let keys = serde_json::to_value(&state).unwrap();
    assert_eq!(keys, json!({"ociVersion": "1.3.0", "id": "c1", "status": "stopped", "bundle": "/b"}));
}

#[test]
fn one_that_does_not_read_its_stdin_is_fine() {
    run_all(&[hook("exec <&-; sleep 0.1"), hook("exit 0")]).unwrap();
}

#[test]
fn it_starts_in_the_folder_with_its_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["a name", "-c", "pwd > here; echo \"$0 $1\" > words", "zero", "one two"].map(str::to_owned);
    let hook = HookBuilder::default().path("/bin/sh").args(args.to_vec()).build().unwrap();
    run_in(folder.path(), &[hook]).unwrap();
    let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(Path::new(read("here").trim()), folder.path().canonicalize().unwrap());
    assert_eq!(read("words"), "zero one two\n");
}

#[test]
fn a_failing_one_is_named_with_its_words_and_the_rest_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = [hook("exit 0"), hook("echo chatter; echo 'no such card' >&2; exit 3"), hook("> ran")];
    let err = run_in(folder.path(), &hooks).unwrap_err();
    assert_eq!(err.to_string(), "createRuntime hook 1 (/bin/sh): exit status 3; it said: no such card");
    assert!(!folder.path().join("ran").exists());
    let err = run_all(&[hook("kill -SEGV $$")]).unwrap_err();
    assert_eq!(err.to_string(), "createRuntime hook 0 (/bin/sh): killed by SIGSEGV");
    let err = run_all(&[hook("echo only here; false")]).unwrap_err();
    assert!(err.to_string().ends_with("exit status 1; it said: only here"), "{err}");
}

#[test]
fn one_out_of_time_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut slow = hook("sleep 60 & echo $! > child; echo still waiting >&2; wait");
    slow.set_timeout(Some(1));
    let before = Instant::now();
    let err = run_in(folder.path(), &[slow]).unwrap_err();
    assert!(err.to_string().contains("not done after its 1 s, and killed; it said: still waiting"), "{err}");
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    // Killed, but reaped by its new parent in its own time.
    let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    for _ in 0..200 {
        if gone() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the hook's child {child} still runs");
}

#[test]
fn what_it_leaves_running_does_not_hold_us() {
    let folder = tempfile::tempdir().unwrap();
    let before = Instant::now();
    // The background process holds stdout and stderr, where we listen.
    run_in(folder.path(), &[hook("sleep 60 & echo $! > child")]).unwrap();
    assert!(before.elapsed() < Duration::from_secs(20));
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    let pid: i32 = child.trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    process::kill(pid, 9).unwrap();
}

#[test]
fn a_flood_is_read_and_forgotten() {
    let err =
        run_all(&[hook("head -c 1073741824 /dev/zero; yes end | head -c 100000 >&2; exit 1")]).unwrap_err();
    let text = err.to_string();
    assert!(text.len() < SHOWN + 200 && text.ends_with("end\nend"), "{} bytes", text.len());
}

#[test]
fn it_runs_in_the_callers_namespaces() {
    std::thread::spawn(|| {
        process::unshare(process::namespace::UTS).unwrap();
        rustix::system::sethostname(b"inside").unwrap();
        assert_eq!(said(hook("uname -n > out")), "inside\n");
    })
    .join()
    .unwrap();
}

#[test]
fn it_has_three_files_and_the_default_signals() {
    let script = "n=3; while [ $n -lt 300 ]; do [ ! -e /proc/$$/fd/$n ] || exit 1; n=$((n+1)); done
        while read -r key value; do case $key in
            SigIgn:|SigBlk:) [ $((0x$value)) = 0 ] || exit 2;; esac; done < /proc/self/status";
    let _open = File::open("/").unwrap();
    run_all(&[hook(script)]).unwrap();
}

#[test]
fn nonsense_is_refused_with_the_reason() {
    let at = |path: &str| HookBuilder::default().path(path).build().unwrap();
    let timed = |seconds| {
        let mut hook = hook("exit 0");
        hook.set_timeout(Some(seconds));
        hook
    };
    for (hook, words) in [
        (at("bin/sh"), "absolute"),
        (at(""), "absolute"),
        (at("/no/such/hook"), "execve(\"/no/such/hook\"): ENOENT"),
        (at("/etc/passwd"), "EACCES"),
        (timed(0), "above 0"),
        (timed(-1), "above 0"),
        (HookBuilder::default().path("/bin/sh").args(vec!["a\0b".to_owned()]).build().unwrap(), "NUL"),
    ] {
        let err = run_all(&[hook]).unwrap_err();
        assert!(err.to_string().contains(words), "{err}");
    }
    run_all(&[timed(i64::MAX)]).unwrap();
    let err = run_in(Path::new("/no/such"), &[hook("exit 0")]).unwrap_err();
    assert!(err.to_string().contains("chdir(\"/no/such\"): ENOENT"), "{err}");
}
