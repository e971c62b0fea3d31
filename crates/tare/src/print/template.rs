//! Go templates, as far as people who use Docker write them in `--format`.
//!
//! ```text
//! text ──parse──▶ nodes ──fill(value)──▶ text
//!       {{.State.Pid}}  {{json .}}  {{range $k, $v := .Labels}}…{{else}}…{{end}}  {{if and (eq .A "x") .B}}…{{end}}
//! ```
//!
//! | part | file |
//! |---|---|
//! | words of an action | `template/lexer.rs` |
//! | text to nodes | `template/parser.rs` |
//! | nodes and a value to text | `template/evaluate.rs` |
//! | `len`, `eq`, `join` and the others | `template/functions.rs` |
//! | `printf` | `template/printf.rs` |
//!
//! Values are JSON. Where Docker evaluates Go structs, whose fields have names of their own (`.ID`), a name that
//! is not there as it is written is looked for without regard to case. A template comes from a person, but it may
//! be anything: depth, steps and output are bounded, and nothing here panics.

use serde_json::Value;

mod evaluate;
mod functions;
mod lexer;
mod parser;
mod printf;

#[cfg(test)]
mod tests;

/// Text with actions in it.
#[derive(Debug, PartialEq)]
pub struct Template(Vec<Node>);

/// A piece of a template.
#[derive(Debug, PartialEq)]
enum Node {
    /// Printed as it is.
    Text(String),
    /// `{{pipeline}}`
    Action(Pipeline),
    /// `{{if}}`, `{{with}}`.
    If { with: bool, condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// `{{range}}`
    Range { over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// `$x := command | command`
#[derive(Debug, Default, PartialEq)]
struct Pipeline {
    /// The variables that get its value: one, or for `range` key and value.
    variables: Vec<String>,
    /// `:=` makes the variables, `=` changes them.
    declares: bool,
    commands: Vec<Command>,
}

/// One stage: what is called, and with what.
type Command = Vec<Operand>;

/// A word of a command.
#[derive(Debug, PartialEq)]
enum Operand {
    /// A text, a number, `true`, `nil`.
    Literal(Value),
    /// `len`
    Function(&'static str),
    /// `.A.B`, `$x.A`, `(pipeline).A`
    Field(Base, Vec<String>),
}

/// Where a chain of fields begins.
#[derive(Debug, PartialEq)]
enum Base {
    /// `.`
    Dot,
    /// `$x`; `$` is what the whole template was given.
    Variable(String),
    /// `(pipeline)`
    Pipeline(Box<Pipeline>),
}

/// Why a template cannot be used.
type Failure = String;

impl Template {
    /// Reads a template, or says what is wrong with it. In text `\t` and `\n` stand for a tab and a new line.
    pub fn parse(text: &str) -> Result<Template, Failure> {
        parser::parse(text).map(Template)
    }

    /// Fills in the fields of `value`, or says which one is not there.
    pub fn fill(&self, value: &Value) -> Result<String, Failure> {
        evaluate::fill(&self.0, value, false)
    }

    /// As [`fill`](Template::fill) for the headings of a table: functions that change a text leave a heading alone.
    pub fn fill_heading(&self, value: &Value) -> Result<String, Failure> {
        evaluate::fill(&self.0, value, true)
    }
}
