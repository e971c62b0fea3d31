//! The verbs on containers.

pub mod attach;
pub mod containers;
pub mod copy;
pub mod exec;
pub mod export;
pub mod inspect;
pub mod life;
pub mod ps;
pub mod run;
pub mod start;
pub mod stats;
pub mod update;
pub mod why;
