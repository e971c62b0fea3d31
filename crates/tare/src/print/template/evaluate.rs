//! Nodes and a value to text.

use std::borrow::Cow;

use serde_json::Value;

use super::{Base, Command, Failure, Node, Operand, Pipeline, functions};

/// Actions and rounds of loops that a template may take.
const MOST_STEPS: usize = 1_000_000;
/// Bytes that it may print, and that any value in it may have.
pub const MOST_BYTES: usize = 64 << 20;

/// What an expression is worth; `None`: there is no such thing, printed as `<no value>`.
pub type Worth<'a> = Option<Cow<'a, Value>>;

/// Texts that Docker leaves out of its JSON where they are empty, each after a field that always stands beside it:
/// a mount's, a subnet's.
const OMITTED: [(&str, &str); 5] = [
    ("Propagation", "Name"),
    ("Propagation", "Driver"),
    ("Propagation", "Source"),
    ("Subnet", "Gateway"),
    ("Subnet", "IPRange"),
];
/// Names under which Docker keeps lists, which print as `[]` where there is nothing.
const LISTS: [&str; 16] = [
    "Args",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Mounts",
    "SecurityOpt",
];
/// Names under which Docker keeps maps, which print as `map[]` where there is nothing. What is not in them is no
/// mistake in the template.
const MAPS: [&str; 15] = [
    "Annotations",
    "Attributes",
    "Config",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Fills in a template.
pub fn fill(nodes: &[Node], value: &Value, heading: bool) -> Result<String, Failure> {
    let mut evaluation = Evaluation {
        text: String::new(),
        steps: 0,
        variables: vec![("", Some(Cow::Borrowed(value)))],
        heading,
    };
    evaluation.nodes(nodes, &Some(Cow::Borrowed(value)))?;
    Ok(evaluation.text)
}

struct Evaluation<'a> {
    text: String,
    steps: usize,
    variables: Vec<(&'a str, Worth<'a>)>,
    heading: bool,
}

/// How a list of nodes was left.
#[derive(PartialEq)]
enum Left {
    AtItsEnd,
    ByBreak,
    ByContinue,
}

impl<'a> Evaluation<'a> {
    fn step(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        if self.steps > MOST_STEPS || self.text.len() > MOST_BYTES {
            return Err("it prints too much, or takes too long".to_owned());
        }
        Ok(())
    }

    /// What is made here is gone behind the end of the block.
    fn block(&mut self, nodes: &'a [Node], dot: &Worth<'a>, known: usize) -> Result<Left, Failure> {
        let left = self.nodes(nodes, dot);
        self.variables.truncate(known);
        left
    }

    fn nodes(&mut self, nodes: &'a [Node], dot: &Worth<'a>) -> Result<Left, Failure> {
        for node in nodes {
            self.step()?;
            let known = self.variables.len();
            match node {
                Node::Text(text) => self.text += text,
                Node::Action(pipeline) => {
                    let worth = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.text += &shown(pipeline, &worth);
                    }
                }
                Node::If { with, condition, then, otherwise } => {
                    let worth = self.pipeline(condition, dot)?;
                    let (block, dot) = match (functions::truth(&worth), with) {
                        (true, true) => (then, &worth),
                        (true, false) => (then, dot),
                        (false, _) => (otherwise, dot),
                    };
                    let left = self.block(block, dot, known)?;
                    if left != Left::AtItsEnd {
                        return Ok(left);
                    }
                }
                Node::Range { over, body, otherwise } => {
                    if self.range(over, body, dot)? == 0
                        && self.block(otherwise, dot, known)? != Left::AtItsEnd
                    {
                        return Ok(Left::ByBreak);
                    }
                    self.variables.truncate(known);
                }
                Node::Break => return Ok(Left::ByBreak),
                Node::Continue => return Ok(Left::ByContinue),
            }
        }
        Ok(Left::AtItsEnd)
    }

    /// Goes round; answers how often.
    fn range(&mut self, over: &'a Pipeline, body: &'a [Node], dot: &Worth<'a>) -> Result<usize, Failure> {
        let worth = self.commands(&over.commands, dot)?;
        let items: Vec<(Value, Worth<'a>)> = match worth {
            None => Vec::new(),
            Some(Cow::Borrowed(Value::Array(list))) => {
                list.iter().enumerate().map(|(at, item)| (at.into(), Some(Cow::Borrowed(item)))).collect()
            }
            Some(Cow::Owned(Value::Array(list))) => {
                list.into_iter().enumerate().map(|(at, item)| (at.into(), Some(Cow::Owned(item)))).collect()
            }
            Some(Cow::Borrowed(Value::Object(map))) => {
                map.iter().map(|(key, item)| (key.as_str().into(), Some(Cow::Borrowed(item)))).collect()
            }
            Some(Cow::Owned(Value::Object(map))) => {
                map.into_iter().map(|(key, item)| (key.into(), Some(Cow::Owned(item)))).collect()
            }
            Some(value) => match (&*value, value.as_u64()) {
                (Value::Null, _) => Vec::new(),
                (_, Some(count)) if count <= MOST_STEPS as u64 => {
                    (0..count).map(|at| (at.into(), Some(Cow::Owned(Value::from(at))))).collect()
                }
                _ => return Err(format!("range can't iterate over {}", functions::plain(&value))),
            },
        };
        let known = self.variables.len();
        let rounds = items.len();
        for (key, item) in items {
            self.step()?;
            match over.variables.as_slice() {
                [] => {}
                [value] => self.set(value, item.clone(), over.declares),
                [name, value, ..] => {
                    self.set(name, Some(Cow::Owned(key)), over.declares);
                    self.set(value, item.clone(), over.declares);
                }
            }
            if self.block(body, &item, known)? == Left::ByBreak {
                break;
            }
        }
        Ok(rounds)
    }

    fn set(&mut self, name: &'a str, worth: Worth<'a>, declares: bool) {
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some(variable) if !declares => variable.1 = worth,
            _ => self.variables.push((name, worth)),
        }
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Worth<'a>) -> Result<Worth<'a>, Failure> {
        let worth = self.commands(&pipeline.commands, dot)?;
        for name in &pipeline.variables {
            self.set(name, worth.clone(), pipeline.declares);
        }
        Ok(worth)
    }

    fn commands(&mut self, commands: &'a [Command], dot: &Worth<'a>) -> Result<Worth<'a>, Failure> {
        let mut last: Option<Worth<'a>> = None;
        for command in commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.flatten())
    }

    /// `piped` is what the stage before was worth: the last argument.
    fn command(
        &mut self,
        command: &'a Command,
        dot: &Worth<'a>,
        piped: Option<Worth<'a>>,
    ) -> Result<Worth<'a>, Failure> {
        self.step()?;
        let (first, rest) = command.split_first().ok_or("there is nothing in it")?;
        match first {
            Operand::Function("and" | "or") => self.short_circuit(first, rest, dot, piped),
            Operand::Function(name) => {
                let mut arguments = Vec::with_capacity(rest.len() + 1);
                for operand in rest {
                    arguments.push(self.operand(operand, dot)?);
                }
                arguments.extend(piped);
                let worth = functions::call(name, arguments, self.heading)?;
                if worth.as_ref().and_then(|value| value.as_str()).is_some_and(|text| text.len() > MOST_BYTES)
                {
                    return Err("it prints too much".to_owned());
                }
                Ok(worth)
            }
            // `.Label "x"`: the one field that takes a word.
            Operand::Field(base, names) if names.last().is_some_and(|name| name == "Label") => {
                let mut word = match rest {
                    [word] => self.operand(word, dot)?,
                    _ => None,
                };
                word = word.or(piped.flatten());
                let (_, before) = names.split_last().ok_or("there is nothing in it")?;
                let object = self.field(base, before, dot)?;
                let word = word.as_ref().and_then(|word| word.as_str()).ok_or("Label takes one text")?;
                Ok(self.label(&object, word))
            }
            operand if rest.is_empty() && piped.is_none() => self.operand(operand, dot),
            Operand::Field(_, names) => {
                let name = names.last().map_or("that", String::as_str);
                Err(format!("{name} is not a function, so it takes no arguments"))
            }
            Operand::Literal(value) => Err(format!("can't give argument to non-function {value}")),
        }
    }

    fn label(&self, object: &Worth<'a>, word: &str) -> Worth<'a> {
        let found =
            object.as_ref().and_then(|object| object.get("Label")).and_then(|labels| labels.get(word));
        let text = match (found, self.heading) {
            (Some(value), _) => functions::plain(value),
            (None, true) => word.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " "),
            (None, false) => String::new(),
        };
        Some(Cow::Owned(Value::from(text)))
    }

    /// `and` and `or` look no further than they need to.
    fn short_circuit(
        &mut self,
        name: &Operand,
        rest: &'a [Operand],
        dot: &Worth<'a>,
        piped: Option<Worth<'a>>,
    ) -> Result<Worth<'a>, Failure> {
        let stops_at = *name == Operand::Function("or");
        let mut last = None;
        for operand in rest {
            let worth = self.operand(operand, dot)?;
            if functions::truth(&worth) == stops_at {
                return Ok(worth);
            }
            last = Some(worth);
        }
        piped.or(last).ok_or_else(|| "and and or need arguments".to_owned())
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Worth<'a>) -> Result<Worth<'a>, Failure> {
        match operand {
            Operand::Literal(value) => Ok(Some(Cow::Borrowed(value))),
            Operand::Function(name) => functions::call(name, Vec::new(), self.heading),
            Operand::Field(base, names) => self.field(base, names, dot),
        }
    }

    fn field(&mut self, base: &'a Base, names: &'a [String], dot: &Worth<'a>) -> Result<Worth<'a>, Failure> {
        let mut worth = match base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found
                    .map(|(_, worth)| worth.clone())
                    .ok_or_else(|| format!("there is no variable ${name}"))?
            }
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
        };
        let mut within = "";
        for name in names {
            worth = member(worth, name, within, names)?;
            within = name;
        }
        Ok(worth)
    }
}

/// The member `name` of what `within` was worth.
fn member<'a>(of: Worth<'a>, name: &str, within: &str, chain: &[String]) -> Result<Worth<'a>, Failure> {
    let Some(of) = of else {
        return Err(format!("nil data; no entry for key {name:?} (there is no .{within})"));
    };
    let omitted = is_omitted(&of, name);
    let found = match of {
        Cow::Borrowed(value) => find(value, name).map(Cow::Borrowed),
        Cow::Owned(value) => find(&value, name).cloned().map(Cow::Owned),
    };
    match found {
        Some(found) => Ok(Some(found)),
        None if omitted => Ok(Some(Cow::Owned(Value::from("")))),
        None if MAPS.contains(&within) => Ok(None),
        None => Err(format!("map has no entry for key {name:?} (in .{})", chain.join("."))),
    }
}

/// Whether Docker's JSON leaves this field out where it is empty: its templates know it all the same.
fn is_omitted(of: &Value, name: &str) -> bool {
    OMITTED.iter().any(|(beside, omitted)| *omitted == name && of.get(beside).is_some())
}

/// A field by its name, or by the name that Docker's program has for it.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// As Go prints it. Of nothing at all the name says whether it is an empty list or an empty map.
fn shown(pipeline: &Pipeline, worth: &Worth<'_>) -> String {
    let name = match pipeline.commands.as_slice() {
        [command] => match command.as_slice() {
            [Operand::Field(_, names)] => names.last().map_or("", String::as_str),
            _ => "",
        },
        _ => "",
    };
    match worth.as_deref() {
        None => "<no value>".to_owned(),
        Some(Value::Null) if LISTS.contains(&name) => "[]".to_owned(),
        Some(Value::Null) if MAPS.contains(&name) => "map[]".to_owned(),
        Some(value) => functions::plain(value),
    }
}
