//! Network devices of the host's, given to the container.
//!
//! Source: runtime-spec, config-linux.md "Network Devices": a device keeps its addresses of global scope, and is up
//! when the container begins. When its network namespace goes, a device that is no virtual one comes back to the
//! host by itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::LinuxNetDevice;
use rustix::fs::{Mode, OFlags};
use tare_sys::process::{self, namespace};
use tare_sys::route::{Address, Route};
use tare_sys::{Context, Kind, Result};

/// Moves each device into the network namespace. This process enters it for a moment.
pub fn move_into(netns: BorrowedFd<'_>, devices: &HashMap<String, LinuxNetDevice>) -> Result<()> {
    let host = Route::open()?;
    let mut moved = Vec::new();
    for (name, device) in devices {
        let inside = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
        let what = || format!("move the network device {name} into the container as {inside}");
        let number = host.number(name).doing(what).map_err(|err| match err.errno() {
            Some(rustix::io::Errno::NODEV) => {
                err.with_kind(Kind::NotFound).hint("`ip link` lists the host's")
            }
            _ => err,
        })?;
        let addresses = host.global_addresses(number).doing(what)?;
        host.give_away(number, inside, netns).doing(what)?;
        moved.push((inside, addresses));
    }
    let path = "/proc/self/ns/net";
    let back = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open({path:?})"))?;
    process::enter(netns, namespace::NET)?;
    let done = moved.iter().try_for_each(|(name, addresses)| settle(name, addresses));
    process::enter(back.as_fd(), namespace::NET)?;
    done
}

/// Gives a device its addresses back, and brings it up.
fn settle(name: &str, addresses: &[Address]) -> Result<()> {
    let what = || format!("set up the network device {name} in the container");
    let route = Route::open()?;
    let number = route.number(name).doing(what)?;
    addresses.iter().try_for_each(|address| route.add_address(number, address)).doing(what)?;
    route.set_up(number).doing(what)
}
