//! `top`: the processes of a container. Docker's default columns are read from /proc here; with options of ps(1)
//! that program is asked, and those of its rows are kept whose process is in the container.

use std::fs;
use std::process::Command;

use tare_sys::{Context, Error, Kind, Result};

/// Docker's columns, those of `ps -ef`.
pub fn table(pids: &[i32], base: Option<u32>) -> Vec<Vec<String>> {
    let head = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(pids.iter().filter_map(|pid| row(*pid, base)));
    rows
}

/// One that has just ended has no row.
fn row(pid: i32, base: Option<u32>) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, so the fields are counted from its end (proc_pid_stat(5)).
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|word| word.parse::<i64>().ok()).unwrap_or(0);
    let (parent, terminal, used, began) = (number(4), number(7), number(14) + number(15), number(22));
    let hertz = i64::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100).max(1);
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    let now = tare_sys::time::Moment::now().seconds();
    let lived = (uptime as i64 - began / hertz).max(0);
    let seconds = used / hertz;
    let tty = match (terminal >> 8 & 0xfff, terminal & 0xff) {
        (0, _) => "?".to_owned(),
        // Unix98 terminals (devices.txt): majors 136 to 143.
        (major @ 136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, minor) => format!("tty{minor}"),
        _ => "?".to_owned(),
    };
    Some(vec![
        owner(pid, base),
        pid.to_string(),
        parent.to_string(),
        (seconds * 100 / lived.max(1)).min(99).to_string(),
        started(now - lived, lived),
        tty,
        format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60),
        command,
    ])
}

/// The user inside, whose root has the id `base` on the host: `root`, or a number.
fn owner(pid: i32, base: Option<u32>) -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::metadata(format!("/proc/{pid}")) else { return "?".to_owned() };
    let inside = match base {
        Some(base) if (base..base.saturating_add(crate::range::SIZE)).contains(&meta.uid()) => {
            meta.uid() - base
        }
        _ => meta.uid(),
    };
    if inside == 0 { "root".to_owned() } else { inside.to_string() }
}

/// When it began: the time of a day that is not over, else the date.
fn started(then: i64, lived: i64) -> String {
    let text = tare_sys::time::Moment(i128::from(then) * 1_000_000_000).to_string();
    let (date, time) = text.split_once('T').unwrap_or((&text, ""));
    if lived < 86_400 { time.chars().take(5).collect() } else { date.chars().skip(5).collect() }
}

/// What ps(1) says with these options. It has to say the pid, or nobody knows whose rows they are.
pub fn by_ps(pids: &[i32], options: &[&str]) -> Result<Vec<Vec<String>>> {
    // Asked for these processes alone; not every ps, and not every option, goes with that.
    let list = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let run = |more: &[&str]| Command::new("ps").args(options).args(more).output();
    let output = match run(&["-q", &list]) {
        Ok(output) if !output.status.success() => run(&[]),
        output => output,
    };
    let output = output.doing(|| "run ps").map_err(|err| match err.kind() {
        Kind::NotFound => err.hint("install ps (Debian: procps), or leave the options out"),
        _ => err,
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned();
        return Err(Error::new(Kind::Usage, format!("ps {}: {said}", options.join(" "))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rows = select(&text, pids).ok_or_else(|| {
        Error::new(Kind::Usage, format!("ps {}: couldn't find PID field in ps output", options.join(" ")))
            .hint("ask for the column as well, as in: -o pid,comm")
    })?;
    Ok(rows)
}

/// The heading and the rows of these processes.
fn select(text: &str, pids: &[i32]) -> Option<Vec<Vec<String>>> {
    let mut lines = text.lines();
    let head: Vec<String> = lines.next()?.split_ascii_whitespace().map(str::to_owned).collect();
    let at = head.iter().position(|name| name == "PID")?;
    let mut rows = Vec::new();
    for line in lines {
        // The last column may have spaces in it.
        let mut words = line.split_ascii_whitespace();
        let mut row: Vec<String> = words.by_ref().take(head.len() - 1).map(str::to_owned).collect();
        row.push(words.collect::<Vec<_>>().join(" "));
        if row.get(at).and_then(|word| word.parse().ok()).is_some_and(|pid: i32| pids.contains(&pid)) {
            rows.push(row);
        }
    }
    Some([head].into_iter().chain(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_a_row() {
        let pid = std::process::id() as i32;
        let rows = table(&[pid, i32::MAX], None);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[1][1], pid.to_string());
        assert!(rows[1][7].contains("tare"), "{rows:?}");
    }

    #[test]
    fn rows_of_others_are_left_out() {
        let text = "  PID COMMAND\n    1 init --x\n    7 sleep 60\n   bad\n";
        assert_eq!(select(text, &[7]).unwrap(), [["PID", "COMMAND"], ["7", "sleep 60"]]);
        assert_eq!(select("COMMAND\nsleep\n", &[7]), None);
        assert_eq!(select("", &[7]), None);
    }
}
