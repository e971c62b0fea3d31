//! `tare container prune`, `image prune` and `system prune`: what nobody needs any more goes.

use tare_engine::{Engine, ImageFilters, PrunedContainers, PrunedImages};
use tare_sys::Result;

use crate::image::filters as image_filters;
use crate::print::human;
use crate::print::prompt::confirm;
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

const FILTER: Flag = Flag::many(
    "filter",
    "until=24h",
    "Take only what this holds for ('until=24h', 'label=NAME=VALUE', 'label!=NAME')",
);

const ALL: Flag =
    Flag::switch("all", "Remove all images that no container stands on, not just those without a name")
        .short('a');
const FORCE: Flag = Flag::switch("force", "Do not ask").short('f');

/// Docker's lines on containers that went.
fn tell_of_containers(pruned: &PrunedContainers) -> Result<()> {
    match pruned.removed.is_empty() {
        true => Ok(()),
        false => say(&format!("Deleted Containers:\n{}\n\n", pruned.removed.join("\n"))),
    }
}

pub static CONTAINERS: Verb = Verb {
    about: "Remove all containers that do not run",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[FILTER, FORCE],
    act: containers,
    failed: 1,
};

fn containers(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = image_filters::given(given)?;
    if !given.on("force")? && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned = engine.prune_stopped(&filters)?;
    tell_of_containers(&pruned)?;
    say(&format!("Total reclaimed space: {}\n", human::size(pruned.freed)))?;
    Ok(0)
}

pub static IMAGES: Verb = Verb {
    about: "Remove unused images",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[ALL, FILTER, FORCE],
    act: images,
    failed: 1,
};

fn images(engine: &Engine, given: &Given) -> Result<u8> {
    let all = given.on("all")?;
    let filters = image_filters::given(given)?;
    let warning = match all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !given.on("force")? && !confirm(warning)? {
        return Ok(0);
    }
    let pruned = engine.prune_images(&filters, all)?;
    say(&told(&pruned))?;
    say(&format!("Total reclaimed space: {}\n", human::size(pruned.freed)))?;
    Ok(0)
}

/// Docker's lines on images that went.
pub fn told(pruned: &PrunedImages) -> String {
    let untagged = pruned.untagged.iter().map(|name| format!("untagged: {name}\n"));
    let deleted = pruned.deleted.iter().map(|id| format!("deleted: {id}\n"));
    let lines: String = untagged.chain(deleted).collect();
    if lines.is_empty() { lines } else { format!("Deleted Images:\n{lines}\n") }
}

pub static SYSTEM: Verb = Verb {
    about: "Remove unused data: stopped containers, networks, and images without a name",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[ALL, FILTER, FORCE, Flag::switch("volumes", "Remove volumes without a name as well")],
    act: system,
    failed: 1,
};

fn system(engine: &Engine, given: &Given) -> Result<u8> {
    let all = given.on("all")?;
    let filters = image_filters::given(given)?;
    let images = if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let with_volumes = given.on("volumes")?;
    let volumes =
        if with_volumes { "  - all anonymous volumes not used by at least one container\n" } else { "" };
    let warning = format!(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n\
         {volumes}  - {images}\n"
    );
    if !given.on("force")? && !confirm(&warning)? {
        return Ok(0);
    }
    let containers = engine.prune_stopped(&filters)?;
    tell_of_containers(&containers)?;
    // Labels and times are of containers and images; a network or volume that they might spare stays.
    let unfiltered =
        filters.labels.is_empty() && filters.without_labels.is_empty() && filters.until.is_none();
    let networks = if unfiltered { engine.prune_networks(&|_| true)? } else { Vec::new() };
    if !networks.is_empty() {
        say(&format!("Deleted Networks:\n{}\n\n", networks.join("\n")))?;
    }
    let mut freed = containers.freed;
    if with_volumes && unfiltered {
        let volumes = engine.prune_volumes(&|volume| volume.is_anonymous())?;
        freed += volumes.bytes;
        if !volumes.names.is_empty() {
            say(&format!("Deleted Volumes:\n{}\n\n", volumes.names.join("\n")))?;
        }
    }
    let pruned = engine.prune_images(&ImageFilters { dangling: None, ..filters }, all)?;
    say(&told(&pruned))?;
    say(&format!("Total reclaimed space: {}\n", human::size(freed + pruned.freed)))?;
    Ok(0)
}
