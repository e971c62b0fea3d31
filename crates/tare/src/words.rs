//! From words to one command: what there is, how it is called, and what is wrong with what was typed.

pub mod flag;
pub mod help;
pub mod parse;
pub mod tree;
