//! What a person sees: tables, templates, bars, errors, and the terminal that they are shown on.

pub mod failure;
pub mod human;
pub mod progress;
pub mod prompt;
pub mod table;
pub mod template;
pub mod terminal;
