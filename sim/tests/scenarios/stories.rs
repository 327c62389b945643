//! Scenarios that the list of wrong variants refers to: on the code as it is, every check holds in them; with the
//! variant, one of them fails.

use lockstep_sim::{run::run_story, stories::STORIES};

#[test]
fn the_code_as_it_is_bears_every_story() {
    for story in STORIES {
        if let Some(text) = run_story(story, None) {
            panic!("{}: {text}", story.name);
        }
    }
}

#[cfg(feature = "mutants")]
#[test]
fn every_story_finds_its_wrong_variant() {
    for story in STORIES {
        let found = run_story(story, Some(story.mutant));
        let first_line = found.as_deref().and_then(|text| text.lines().next());
        println!("{}: {}: {}", story.mutant.name(), story.name, first_line.unwrap_or("NOT FOUND"));
        assert!(found.is_some(), "{} does not find {}", story.name, story.mutant.name());
    }
}
