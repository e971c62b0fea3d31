use super::*;

/// clap checks names, aliases and positions itself, but only of what is built.
#[test]
fn the_whole_tree_is_sound() {
    let mut all = command();
    all.build();
    all.clone().debug_assert();
    let run = all.find_subcommand("run").unwrap();
    assert!(run.get_arguments().any(|arg| arg.get_id() == "memory"), "the deferred options are built");
    let ls = all.find_subcommand("container").unwrap().find_subcommand("ls").unwrap();
    assert!(ls.get_arguments().any(|arg| arg.get_id() == "no-trunc"));
}

#[test]
fn options_are_described_and_no_two_share_a_letter() {
    let places = COMMON.iter().chain(OTHERS).chain(GROUPS.iter().flat_map(|group| group.places));
    for place in places {
        for flag in place.verb.flags {
            assert!(!flag.help.is_empty() && !flag.help.ends_with('.'), "{} --{}", place.name, flag.long);
        }
        let longs: Vec<_> = place.verb.flags.iter().map(|flag| flag.long).collect();
        assert!(longs.is_sorted(), "{}: the help lists options by name: {longs:?}", place.name);
    }
}

#[test]
fn words_lead_to_commands() {
    let table: [(&[&str], &str); 8] = [
        (&[], "tare"),
        (&["--root", "ps", "rm", "x"], "tare rm"),
        (&["--root=ps", "-v", "image"], "tare image"),
        (&["container", "ps", "-a"], "tare container ps"),
        (&["container", "--help"], "tare container"),
        (&["container", "image"], "tare container"),
        (&["bogus", "run"], "tare"),
        (&["run", "host", "ps"], "tare run"),
    ];
    for (words, path) in table {
        assert_eq!(find(words.iter().copied()).path, path);
    }
}

#[test]
fn numbers_of_words_are_checked() {
    let count = |verb: &'static Verb, words: &[&str]| {
        let command = bare("x").no_binary_name(true).args(flag::args(verb.flags, verb.words_end_options));
        let matches = command.try_get_matches_from(words).unwrap();
        let spot = || Spot { path: "tare x".to_owned(), target: Target::Verb(verb) };
        counted(verb, &Given::new(&matches, verb.flags), &spot).map_err(|error| error.to_string())
    };
    let error = |text: &str| Err(text.to_owned());
    assert_eq!(count(&run::RUN, &[]), error("'tare x' requires at least 1 argument"));
    assert_eq!(count(&run::RUN, &["--rootfs", "/"]), Ok(()));
    assert_eq!(count(&carry::TAG, &["x"]), error("'tare x' requires 2 arguments"));
    assert_eq!(count(&containers::LOGS, &["x", "y"]), error("'tare x' requires 1 argument"));
    assert_eq!(count(&ps::PS, &["x"]), error("'tare x' takes no arguments"));
    assert_eq!(count(&images::LIST, &["x", "y"]), error("'tare x' requires at most 1 argument"));
}
