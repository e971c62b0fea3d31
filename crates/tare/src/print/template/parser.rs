//! Text to nodes.

use serde_json::Value;

use super::lexer::{self, Word};
use super::{Base, Command, Failure, Node, Operand, Pipeline, functions};

/// How deep blocks and brackets may lie in each other.
const DEEPEST: usize = 100;

/// Text, or what stands in an action.
enum Piece {
    Text(String),
    Action(String),
}

/// Reads a template.
pub fn parse(text: &str) -> Result<Vec<Node>, Failure> {
    let mut parser =
        Parser { pieces: pieces(text)?.into_iter(), depth: 0, loops: 0, variables: vec![String::new()] };
    let (nodes, end) = parser.block(&[])?;
    match end {
        None => Ok(nodes),
        Some((word, _)) => Err(format!("{{{{{word}}}}} without a beginning")),
    }
}

/// Splits at `{{` and `}}`; `{{-` and `-}}` take away the white space before and after.
fn pieces(text: &str) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_start = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let trims = |text: &str| text.starts_with('-') && text[1..].starts_with(char::is_whitespace);
        let before = if trim_start { before.trim_start() } else { before };
        let before = if after.is_some_and(trims) { before.trim_end() } else { before };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.replace("\\t", "\t").replace("\\n", "\n")));
        }
        let Some(after) = after else { return Ok(pieces) };
        let after = if trims(after) { &after[1..] } else { after };
        let end = end_of_action(after).ok_or("a {{ is not closed by }}")?;
        let action = &after[..end];
        rest = &after[end + 2..];
        trim_start = action.ends_with('-') && action[..action.len() - 1].ends_with(char::is_whitespace);
        let action = if trim_start { &action[..action.len() - 1] } else { action }.trim();
        if !(action.starts_with("/*") && action.ends_with("*/") && action.len() >= 4) {
            pieces.push(Piece::Action(action.to_owned()));
        }
    }
}

/// Where the `}}` is; not one inside quotes.
fn end_of_action(text: &str) -> Option<usize> {
    let comment = text.trim_start();
    if comment.starts_with("/*") {
        let from = text.len() - comment.len();
        let end = from + text[from..].find("*/")?;
        return text[end..].find("}}").map(|at| end + at);
    }
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let c = rest.chars().next()?;
        match c {
            '"' | '`' | '\'' => at += lexer::quoted_length(rest, c)?,
            '}' if rest.starts_with("}}") => return Some(at),
            c => at += c.len_utf8(),
        }
    }
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
    /// Ranges round what is being read.
    loops: usize,
    /// The variables that there are; `$` is the empty name.
    variables: Vec<String>,
}

/// What ends a block: `end` or `else`, and the words after it.
type End = Option<(String, Vec<Word>)>;

impl Parser {
    /// Reads up to one of `ends`, or to the end of the text where there are none.
    fn block(&mut self, ends: &[&str]) -> Result<(Vec<Node>, End), Failure> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let words = lexer::words(&action)?;
            let keyword = match words.first() {
                Some(Word::Name(name)) => name.as_str(),
                Some(_) => "",
                None => return Err("{{}} has nothing in it".to_owned()),
            };
            let rest = words[1..].to_vec();
            match keyword {
                "if" | "with" | "range" => {
                    let keyword = keyword.to_owned();
                    nodes.push(self.control(&keyword, rest)?);
                }
                "end" | "else" if ends.contains(&keyword) => {
                    return Ok((nodes, Some((keyword.to_owned(), rest))));
                }
                "end" | "else" => return Err(format!("{{{{{keyword}}}}} without a beginning")),
                "break" | "continue" if self.loops == 0 => {
                    return Err(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    return Err(format!("{{{{{keyword}}}}} is not supported: a format is one template"));
                }
                _ => nodes.push(Node::Action(self.whole_pipeline(words)?)),
            }
        }
        if ends.is_empty() { Ok((nodes, None)) } else { Err("an {{end}} is missing".to_owned()) }
    }

    /// `{{if …}}…{{else if …}}…{{else}}…{{end}}`, and the same for `with` and `range`.
    fn control(&mut self, keyword: &str, words: Vec<Word>) -> Result<Node, Failure> {
        self.deeper()?;
        let known = self.variables.len();
        let pipeline = self.whole_pipeline(words)?;
        if pipeline.commands.is_empty() {
            return Err(format!("{{{{{keyword}}}}} needs a value"));
        }
        let is_loop = usize::from(keyword == "range");
        self.loops += is_loop;
        let (body, end) = self.block(&["end", "else"])?;
        self.loops -= is_loop;
        let otherwise = match end {
            Some((word, rest)) if word == "else" => match rest.first() {
                None => self.block(&["end"])?.0,
                // `else if` is an `if` in the `else`, with one `end` for both.
                Some(Word::Name(again)) if again == "if" || again == "with" => {
                    vec![self.control(again, rest[1..].to_vec())?]
                }
                Some(_) => return Err("{{else}} takes if, with or nothing".to_owned()),
            },
            _ => Vec::new(),
        };
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(match keyword {
            "range" => Node::Range { over: pipeline, body, otherwise },
            _ => Node::If { with: keyword == "with", condition: pipeline, then: body, otherwise },
        })
    }

    fn deeper(&mut self) -> Result<(), Failure> {
        self.depth += 1;
        if self.depth > DEEPEST { Err("it is too deep".to_owned()) } else { Ok(()) }
    }

    fn whole_pipeline(&mut self, words: Vec<Word>) -> Result<Pipeline, Failure> {
        let mut words = words.into_iter().peekable();
        let pipeline = self.pipeline(&mut words)?;
        match words.next() {
            None => Ok(pipeline),
            Some(_) => Err("there is a ) too many".to_owned()),
        }
    }

    /// Reads up to a `)` or the end.
    fn pipeline(&mut self, words: &mut Words) -> Result<Pipeline, Failure> {
        let mut pipeline = Pipeline::default();
        // `$x :=`, `$x =`, `$k, $v :=`: looked at before it is taken.
        let ahead: Vec<Word> = words.clone().take(4).collect();
        let (names, operator) = match ahead.as_slice() {
            [Word::Variable(key), Word::Comma, Word::Variable(value), operator] => {
                (vec![key, value], operator)
            }
            [Word::Variable(name), operator, ..] => (vec![name], operator),
            _ => (Vec::new(), &Word::Dot),
        };
        if matches!(operator, Word::Declare | Word::Assign) {
            pipeline.variables = names.into_iter().cloned().collect();
            pipeline.declares = *operator == Word::Declare;
            (0..pipeline.variables.len() * 2).for_each(|_| drop(words.next()));
        }
        let mut command = Command::new();
        while let Some(word) = words.peek() {
            match word {
                Word::Close => break,
                Word::Pipe => {
                    words.next();
                    if command.is_empty() {
                        return Err("there is nothing before a |".to_owned());
                    }
                    pipeline.commands.push(std::mem::take(&mut command));
                    if words.peek().is_none() {
                        return Err("there is nothing after a |".to_owned());
                    }
                }
                _ => command.push(self.operand(words)?),
            }
        }
        if !command.is_empty() {
            pipeline.commands.push(command);
        }
        if pipeline.commands.is_empty() {
            return Err("there is nothing in it".to_owned());
        }
        if pipeline.commands[1..]
            .iter()
            .any(|stage| !matches!(stage[0], Operand::Function(_) | Operand::Field(..)))
        {
            return Err("after a | stands a function".to_owned());
        }
        for name in &pipeline.variables {
            if pipeline.declares {
                self.variables.push(name.clone());
            } else if !self.variables.contains(name) {
                return Err(format!("there is no variable ${name}"));
            }
        }
        Ok(pipeline)
    }

    fn operand(&mut self, words: &mut Words) -> Result<Operand, Failure> {
        let base = match words.next() {
            Some(Word::Literal(value)) => return Ok(Operand::Literal(value)),
            Some(Word::Name(name)) => {
                return match name.as_str() {
                    "true" => Ok(Operand::Literal(Value::Bool(true))),
                    "false" => Ok(Operand::Literal(Value::Bool(false))),
                    "nil" => Ok(Operand::Literal(Value::Null)),
                    name => functions::known(name)
                        .map(Operand::Function)
                        .ok_or_else(|| format!("function \"{name}\" not defined")),
                };
            }
            Some(Word::Dot) => return Ok(Operand::Field(Base::Dot, Vec::new())),
            Some(Word::Field { name, .. }) => {
                return Ok(Operand::Field(Base::Dot, chain(vec![name], words)));
            }
            Some(Word::Variable(name)) => {
                if !self.variables.contains(&name) {
                    return Err(format!("there is no variable ${name}"));
                }
                Base::Variable(name)
            }
            Some(Word::Open) => {
                self.deeper()?;
                let inner = self.pipeline(words)?;
                if words.next() != Some(Word::Close) {
                    return Err("a ( is not closed by )".to_owned());
                }
                self.depth -= 1;
                Base::Pipeline(Box::new(inner))
            }
            Some(word) => return Err(format!("{word:?} is in the wrong place")),
            None => return Err("there is something missing".to_owned()),
        };
        let chain = chain(Vec::new(), words);
        Ok(Operand::Field(base, chain))
    }
}

/// The fields that follow without a space.
fn chain(mut names: Vec<String>, words: &mut Words) -> Vec<String> {
    while let Some(Word::Field { spaced: false, .. }) = words.peek() {
        if let Some(Word::Field { name, .. }) = words.next() {
            names.push(name);
        }
    }
    names
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;
