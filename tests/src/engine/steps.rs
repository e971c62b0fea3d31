//! Many behaviours in one `#[test]`, each of which may fail without keeping the others from being tried.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Most of a behaviour is waiting, so a few are tried side by side even on two processors.
const SIDE_BY_SIDE: usize = 4;

/// Behaviours that are to be tried.
#[derive(Default)]
#[must_use = "nothing happens before run()"]
pub struct Steps<'a>(VecDeque<Step<'a>>);

struct Step<'a> {
    name: &'static str,
    work: Box<dyn FnOnce() + Send + 'a>,
}

impl<'a> Steps<'a> {
    /// None yet.
    pub fn new() -> Steps<'a> {
        Steps::default()
    }

    /// One more. The name is a sentence that is true when it passes.
    pub fn add(&mut self, name: &'static str, work: impl FnOnce() + Send + 'a) {
        let wanted = std::env::var("TARE_TEST_STEP").unwrap_or_default();
        if name.contains(&wanted) {
            self.0.push_back(Step { name, work: Box::new(work) });
        }
    }

    /// Tries all of them, and gives those that do not hold, with why.
    pub fn run(self) -> Vec<String> {
        let queue = Mutex::new(self.0);
        let failures = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..SIDE_BY_SIDE {
                scope.spawn(|| {
                    loop {
                        let step = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(step) = step else { return };
                        if let Err(why) = step.attempt() {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                        }
                    }
                });
            }
        });
        failures.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step<'_> {
    fn attempt(self) -> Result<(), String> {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(self.work));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{word:<6} {:5.1} s  {}", start.elapsed().as_secs_f64(), self.name);
        outcome.map_err(|panic| format!("{}: {}", self.name, message(&*panic)))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_does_not_keep_the_others_from_being_tried() {
        let tried = Mutex::new(0);
        let mut steps = Steps::new();
        for name in ["one", "two", "three"] {
            let tried = &tried;
            steps.add(name, move || {
                *tried.lock().unwrap() += 1;
                assert_ne!(name, "two", "as meant");
            });
        }
        let failures = steps.run();
        assert_eq!(tried.into_inner().unwrap(), 3);
        assert!(failures.len() == 1 && failures[0].starts_with("two: ") && failures[0].contains("as meant"));
    }
}
