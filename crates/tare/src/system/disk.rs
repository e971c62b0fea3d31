//! `tare system df`: what takes how much of the disk.

use tare_engine::{DiskUsage, Engine, Share};
use tare_sys::Result;

use crate::image::images;
use crate::print::human;
use crate::print::table::{self, Column, Row};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static DF: Verb = Verb {
    about: "Show disk usage",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.Type}} {{.Size}}'); .Bytes and .ReclaimableBytes are exact",
        ),
        Flag::switch("verbose", "Show each image, container and volume").short('v'),
    ],
    act: df,
    failed: 1,
};

const COLUMNS: [Column; 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const IMAGES: [Column; 8] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];
const CONTAINERS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
];

const VOLUMES: [Column; 3] = [("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")];

fn df(engine: &Engine, given: &Given) -> Result<u8> {
    let usage = engine.disk_usage()?;
    if given.on("verbose")? {
        verbose(given, &usage)?;
    } else {
        table::print(given, &COLUMNS, &[], rows(&usage))?;
    }
    Ok(0)
}

fn rows(usage: &DiskUsage) -> Vec<Row> {
    let others = Share { size: usage.others, ..Share::default() };
    [
        ("Images", usage.images),
        ("Containers", usage.containers),
        ("Local Volumes", usage.volumes),
        ("Build Cache", Share::default()),
        // Not Docker's: with it, the sizes add up to what `du` says of the state folder.
        ("Engine Records", others),
    ]
    .map(|(kind, share)| {
        let percent = (share.reclaimable * 100).checked_div(share.size);
        let reclaimable = human::size(share.reclaimable);
        table::row([
            ("Type", kind.to_owned()),
            ("TotalCount", share.total.to_string()),
            ("Active", share.active.to_string()),
            ("Size", human::size(share.size)),
            ("Bytes", share.size.to_string()),
            (
                "Reclaimable",
                percent.map_or(reclaimable.clone(), |percent| format!("{reclaimable} ({percent}%)")),
            ),
            ("ReclaimableBytes", share.reclaimable.to_string()),
        ])
    })
    .into()
}

fn verbose(given: &Given, usage: &DiskUsage) -> Result<()> {
    let image = |line: &tare_engine::ImageLine| {
        let mut row = images::row(&line.summary, false);
        let unique = line.size.saturating_sub(line.shared);
        for (key, value) in [
            ("Size", human::size(line.size)),
            ("SharedSize", human::size(line.shared)),
            ("UniqueSize", human::size(unique)),
            ("Bytes", line.size.to_string()),
            ("Containers", line.containers.to_string()),
        ] {
            row.insert(key.to_owned(), value.into());
        }
        row
    };
    let container = |line: &tare_engine::ContainerLine| {
        let summary = &line.summary;
        table::row([
            ("ID", human::short_id(&summary.id).to_owned()),
            ("Image", summary.image.clone()),
            ("Command", format!("\"{}\"", human::shortened(&summary.command, 20))),
            ("Size", human::size(line.size)),
            ("Bytes", line.size.to_string()),
            ("CreatedSince", human::ago(summary.created)),
            ("Status", summary.status.clone()),
            ("Names", summary.name.clone()),
        ])
    };
    let volume = |line: &tare_engine::VolumeLine| {
        table::row([
            ("Name", line.name.clone()),
            ("Links", line.users.to_string()),
            ("Size", human::size(line.size)),
            ("Bytes", line.size.to_string()),
        ])
    };
    let mut sections = [
        (
            "Images space usage:\n\n",
            table::lines(given, &IMAGES, &[], usage.image_lines.iter().map(image).collect())?,
        ),
        (
            "\nContainers space usage:\n\n",
            table::lines(given, &CONTAINERS, &[], usage.container_lines.iter().map(container).collect())?,
        ),
        (
            "\nLocal Volumes space usage:\n\n",
            table::lines(given, &VOLUMES, &[], usage.volume_lines.iter().map(volume).collect())?,
        ),
    ];
    // Titles would be in the way of whoever reads this by a program.
    if given.text("format").is_some_and(|format| !format.starts_with("table")) {
        sections.iter_mut().for_each(|(title, _)| *title = "");
    }
    say(&sections.map(|(title, lines)| format!("{title}{lines}")).concat())
}
