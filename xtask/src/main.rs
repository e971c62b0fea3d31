//! The project's chores, run as `cargo xtask CHORE`.
//!
//! Everything that a newcomer, a developer or the CI does to this tree goes through here, so that there is one
//! way to do it: build the binary with the right linking, show a first container, run every test, check that
//! the house's layers hold, measure a start. Nothing here is part of the product.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod demo;
mod layers;
mod linking;
mod soak;
mod suite;
mod vm;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask CHORE [OPTIONS]

Chores:
  demo                          build tare and run a first container (needs root)
  test [FILTER…]                everything: packages, fmt, clippy, layers, unit, host and vm tests, leak check
       --only unit|host|vm      one lane only
  vm -- COMMAND…                run a command in a throw-away guest with cgroup v2 (needs root, no KVM)
       --systemd                systemd as process 1
       --user                   as an ordinary user in a login session; implies --systemd
       --kernel 6.1|6.12        6.12 unless told otherwise
       --timeout SECONDS        600 unless told otherwise
  build                         build the binary into target/bin/tare
       --profile release|ci     release unless told otherwise
  install                       build the release binary and copy it to PREFIX/bin
       --prefix DIR             /usr/local unless told otherwise
  layers                        check that no crate imports upwards, and the other rules of the house
  soak kills                    the long form of a proof: 1,000 runs of which 100 are killed at random
       --runs N                 1000 unless told otherwise
  soak power                    images on a disk whose power is cut 300 times, amid pull, load, import, commit and rmi
       --runs N                 300 unless told otherwise
  soak image-kills              the same commands killed 1,000 times
       --runs N                 1000 unless told otherwise
  soak full-disk                the same commands on a disk that is full at 50 points
       --runs N                 50 unless told otherwise
  soak fuzz                     what strangers send, made at random: archives, layers, documents, names (fuzz/)
       --seconds N              600 for each target unless told otherwise
  soak oci-run                  2,000 short runs of the OCI runtime under load, each with its own exit code
       --runs N                 2000 unless told otherwise
  soak oci-kills|oci-steps|oci-races
                                the runtime killed at random moments and before each of its system calls, and starts
                                while another process swaps what they look at
       --runs N                 1000 unless told otherwise
  bench start                   time `tare run` beside runc and crun (needs root)
       --runs N                 runs of each, 50 unless told otherwise
       --image NAME             the name to give the image in tare's store
  bench oci                     the OCI runtime beside crun and runc, on the same bundle (needs root)
       --runs N                 runs of each, 50 unless told otherwise
       --binary FILE            another runtime in place of target/bin/tare-oci
       --only WORD              only the scenarios with the word in their name, and nothing is written
  bench image                   pull and load beside Podman and Docker, from one registry and the same files (needs root)
       --runs N                 runs of each, 5 unless told otherwise
       --binary FILE            another tare in place of a release build
       --only WORD              only the work with the word in its name (pull, load, unpack, list), nothing is written
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.split_first() {
        None | Some((&("help" | "--help" | "-h"), _)) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some((&"build", rest)) => build::build_chore(rest),
        Some((&"install", rest)) => build::install_chore(rest),
        Some((&"demo", rest)) => demo::chore(rest),
        Some((&"test", rest)) => suite::chore(rest),
        Some((&"layers", rest)) => layers::chore(rest),
        Some((&"bench", rest)) => bench::chore(rest),
        Some((&"soak", rest)) => soak::chore(rest),
        Some((&"vm", rest)) => vm::chore(rest),
        Some((&vm::INSIDE, rest)) => vm::inside_chore(rest),
        Some((&suite::TESTS, rest)) => suite::tests_chore(rest),
        Some((other, _)) => {
            Err(anyhow::anyhow!("there is no chore `{other}`; `cargo xtask help` lists them"))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
