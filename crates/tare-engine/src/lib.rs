//! The engine: the verbs on containers and images, without a daemon.
//!
//! It never parses a command line and never prints; it makes no raw syscall. Everything it knows is in files
//! that a person can read.
//!
//! ```text
//! request ──▶ policy (pure) ──▶ plan: OCI spec ──▶ monitor (forked) ──▶ runtime ──▶ kernel
//!                 ▲                                   │
//!               facts                                 └──▶ status.json, log.json ──▶ ps, inspect, logs
//! sweep: list, compare, undo (whatever a kill left half done)
//! ```
#![forbid(unsafe_code)]

mod attach;
mod boot;
mod carry;
mod cdi;
mod cgroup;
mod changes;
mod commit;
mod container;
mod control;
mod copy;
mod create;
mod disk;
mod engine;
pub mod events;
mod exec;
mod export;
mod facts;
mod files;
mod health;
mod host_image;
mod image;
mod image_copy;
mod image_filter;
mod image_inspect;
mod inspect;
mod links;
mod list;
mod log;
mod machine;
mod monitor;
mod name;
mod name_server;
mod network;
mod obstacle;
pub mod policy;
mod processes;
mod prune;
mod pull;
mod range;
mod registry;
mod removal;
mod rename;
pub mod request;
mod root;
mod start;
mod stats;
mod stdio;
mod stop;
mod storage;
mod sweep;
mod update;
mod volume;
mod warm;
mod watch;
mod why;

pub use attach::{Attachment, Keys};
pub use boot::Booted;
pub use carry::{Loaded, Packing, Step};
pub use cdi::is_name as is_cdi_name;
pub use changes::{Change, ChangeKind};
pub use commit::CommitRequest;
pub use container::{Roots, State};
pub use copy::{Copied, CopyOptions};
pub use create::Created;
pub use disk::{ContainerLine, DiskUsage, ImageLine, Share, VolumeLine};
pub use engine::Engine;
pub use events::{Event, EventQuery};
pub use exec::ExecRequest;
pub use exec::probe::{NAME as PROBE, main as probe_main};
pub use facts::default_roots;
pub use image::{CompactedImage, ImageSummary, ImportRequest, PrunedImages, Verified};
pub use image_filter::ImageFilters;
pub use list::{Filters, ListQuery, Size, Summary};
pub use log::LogQuery;
pub use machine::network_of as machine_network_of;
pub use machine::{HOLDER, Network as MachineNetwork, enter, enter_each, holder_main, recognize};
pub use monitor::adopt::{NAME as MONITOR, main as monitor_main};
pub use monitor::message::Exit;
pub use monitor::terminal::{NAME as TERMINAL, main as terminal_main};
pub use network::NetworkSummary;
pub use prune::PrunedContainers;
pub use pull::{PullOptions, Pulled};
pub use registry::Login;
pub use start::{Attach, Started};
pub use stats::{Pressure, Usage};
pub use tare_image::registry::credentials::Keeper;
pub use tare_image::registry::download::is_address;
pub use tare_image::registry::listing::{Found, Referrer};
pub use tare_image::registry::push::PushState;
pub use tare_image::store::{Damage, LayerState};
pub use tare_image::{Digest, Reference};
pub use tare_network::network::{Network, WantedNetwork, WantedPool};
pub use tare_network::port::{Protocol, Published};
pub use tare_network::subnet::Subnet;
pub use tare_sys::signal::number as signal_number;
pub use update::Update;
pub use volume::{Pruned, Volume};
pub use warm::Warm;
pub use why::Why;
