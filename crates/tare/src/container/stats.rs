//! `tare stats`: what containers use, now and again.

use std::io::{self, IsTerminal};
use std::time::Duration;

use tare_engine::{Engine, Usage};
use tare_sys::{Error, Kind, Result};

use crate::print::human;
use crate::print::table::{self, Column, Row};
use crate::print::terminal::{self, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

const COLUMNS: [Column; 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const WITH_PRESSURE: [Column; 9] = [
    COLUMNS[0],
    COLUMNS[1],
    COLUMNS[2],
    COLUMNS[3],
    COLUMNS[4],
    COLUMNS[5],
    COLUMNS[6],
    COLUMNS[7],
    ("Pressure", "WAITS CPU/MEM/IO"),
];
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Between the two looks of which one answer is made.
const ONE_LOOK: Duration = Duration::from_millis(500);

pub static STATS: Verb = Verb {
    about: "Show what containers use, live",
    operands: "[OPTIONS] [CONTAINER...]",
    least: |_| 0,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::switch("all", "Show all containers, not just those that run").short('a'),
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.Name}}: {{.MemUsage}}')",
        ),
        Flag::switch("no-stream", "Look once, and end"),
        Flag::switch("no-trunc", "Do not shorten what is printed"),
    ],
    act: stats,
    failed: 1,
};

fn stats(engine: &Engine, given: &Given) -> Result<u8> {
    let names = given.words();
    let (all, whole) = (given.on("all")?, given.on("no-trunc")?);
    let once = given.on("no-stream")?;
    let live = !once && io::stdout().is_terminal();
    // Bars and colours are for people; who names a format gets what he asked for.
    let bars = io::stdout().is_terminal() && given.text("format").is_none_or(|format| format == "table");
    table::Format::given(given)?;
    let mut before = engine.usage(&names, all)?;
    std::thread::sleep(ONE_LOOK);
    loop {
        let now = match engine.usage(&names, all) {
            // One of those that were named has been removed.
            Err(err) if err.kind() == Kind::NotFound && !once => return Ok(0),
            usage => usage?,
        };
        let pressure =
            bars && terminal::width() >= 150 && now.iter().any(|usage| usage.pressure.cpu.is_some());
        let rows = now.iter().map(|usage| {
            let earlier = before.iter().find(|earlier| earlier.id == usage.id).unwrap_or(usage);
            row(usage, earlier, whole, bars)
        });
        let columns: &[Column] = if pressure { &WITH_PRESSURE } else { &COLUMNS };
        let text = table::lines(given, columns, &[], rows.collect())?;
        if live {
            // To the top, over what is there, then away with the rest: no flicker.
            let lines =
                text.lines().map(|line| format!("{}\x1b[K\n", human::shortened(line, terminal::width())));
            say(&format!("\x1b[H{}\x1b[J", lines.collect::<String>()))?;
        } else {
            say(&text)?;
        }
        if once {
            return Ok(0);
        }
        if is_closed() {
            return Ok(0);
        }
        before = now;
        std::thread::sleep(PERIOD);
    }
}

/// Whether nobody reads any more, as in `tare stats | head`.
fn is_closed() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let out = io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let polled = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok_and(|ready| ready > 0 && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

fn row(usage: &Usage, before: &Usage, whole: bool, bars: bool) -> Row {
    let id = if whole { usage.id.as_str() } else { human::short_id(&usage.id) };
    let cpu = usage.cpu_percent(before);
    let (memory, limit) = (usage.memory(), if usage.running { usage.memory_limit() } else { 0 });
    let share = if limit == 0 { 0.0 } else { memory as f64 / limit as f64 * 100.0 };
    let percent = |value: f64, most: f64| match bars {
        true => format!("{value:>6.2}% {}", bar(value / most)),
        false => format!("{value:.2}%"),
    };
    let (received, sent) = usage.network.unwrap_or_default();
    let (for_it, from_it) = usage.dropped.unwrap_or_default();
    let waits = usage.pressure;
    let wait = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}%"));
    table::row([
        ("BlockIO", format!("{} / {}", human::size(usage.io.0), human::size(usage.io.1))),
        ("CPUPerc", percent(cpu, 100.0 * f64::from(usage.cpus.max(1)))),
        ("Container", id.to_owned()),
        ("ID", id.to_owned()),
        ("MemPerc", percent(share, 100.0)),
        ("MemUsage", format!("{} / {}", human::binary(memory), human::binary(limit))),
        ("Name", usage.name.clone()),
        ("NetDropped", format!("{for_it} / {from_it}")),
        ("NetIO", format!("{} / {}", human::size(received), human::size(sent))),
        ("PIDs", usage.cgroup.pids.map_or(0, |pids| pids.current).to_string()),
        ("Pressure", format!("{} {} {}", wait(waits.cpu), wait(waits.memory), wait(waits.io))),
    ])
}

/// Six columns, full at 1.
fn bar(share: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    const COLUMNS: usize = 6;
    let eighths = (share.clamp(0.0, 1.0) * (COLUMNS * 8) as f64).round() as usize;
    // What is used at all is seen.
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    let part = EIGHTHS.get(eighths % 8).filter(|_| eighths % 8 > 0);
    let text: String = std::iter::repeat_n('█', eighths / 8).chain(part.copied()).collect();
    format!("{text:·<COLUMNS$}")
}

/// `tare top`: the processes in a container.
pub static TOP: Verb = Verb {
    about: "Show the processes of a container",
    operands: "CONTAINER [ps OPTIONS]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: true,
    flags: &[],
    act: top,
    failed: 1,
};

fn top(engine: &Engine, given: &Given) -> Result<u8> {
    let words = given.words();
    let (container, options) =
        words.split_first().ok_or_else(|| Error::new(Kind::Usage, "processes are of one container"))?;
    let rows = engine.top(container, options)?;
    let cells =
        |row: &Vec<String>| row.iter().map(|cell| terminal::harmless(cell)).collect::<Vec<_>>().join("\t");
    say(&table::aligned(rows.iter().map(cells)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill() {
        assert_eq!(bar(0.0), "······");
        assert_eq!(bar(0.0001), "▏·····");
        assert_eq!(bar(0.5), "███···");
        assert_eq!(bar(0.99), "██████");
        assert_eq!(bar(7.0), "██████");
        assert_eq!(bar(f64::NAN).chars().count(), 6);
    }
}
