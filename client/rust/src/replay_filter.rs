//! What the caller has had of a reply, so that it gets each piece once however often the turn is posted. No input or
//! output here.

use crate::Event;
use crate::v1::TextDelta;

#[derive(Debug, Default)]
pub(crate) struct Progress {
    has_begun: bool,
    text: String,
    skills: Vec<Event>,
    repetition: Option<Repetition>,
}

/// A stream that begins again with what the caller has had.
#[derive(Debug)]
struct Repetition {
    /// All of the stream, for the case that it turns out to be another reply.
    events: Vec<Event>,
    /// How many bytes of the text have come again.
    text_length: usize,
    /// The skill events that are still to come again.
    skills_left: Vec<Event>,
}

impl Progress {
    /// Notes that the turn is posted again: the events begin with the first one.
    pub(crate) fn post_again(&mut self) {
        if self.has_begun {
            self.repetition = Some(Repetition {
                events: Vec::new(),
                text_length: 0,
                skills_left: self.skills.clone(),
            });
        }
    }

    /// Takes the next event of the stream and returns those that the caller gets.
    pub(crate) fn accept(&mut self, event: Event) -> Vec<Event> {
        let Some(repetition) = &mut self.repetition else {
            return vec![self.hand_out(event)];
        };
        repetition.events.push(event.clone());
        match event {
            Event::Started(_) => Vec::new(),
            Event::TextDelta(TextDelta { text }) => self.repeat_text(&text),
            Event::SkillCall(_) | Event::SkillResult(_) => {
                let had = repetition.skills_left.iter().position(|had| *had == event);
                match had {
                    Some(index) => {
                        repetition.skills_left.swap_remove(index);
                        Vec::new()
                    }
                    None => vec![self.hand_out(event)],
                }
            }
            Event::Completed(_) => {
                if repetition.text_length < self.text.len() || !repetition.skills_left.is_empty() {
                    self.begin_anew()
                } else {
                    vec![event]
                }
            }
        }
    }

    fn repeat_text(&mut self, text: &str) -> Vec<Event> {
        let Some(repetition) = &mut self.repetition else {
            return Vec::new();
        };
        let left = &self.text[repetition.text_length..];
        if left.starts_with(text) {
            repetition.text_length += text.len();
            Vec::new()
        } else if let Some(new) = text.strip_prefix(left) {
            repetition.text_length = self.text.len() + new.len();
            let text = new.to_owned();
            vec![self.hand_out(Event::TextDelta(TextDelta { text }))]
        } else {
            self.begin_anew()
        }
    }

    /// Hands out the whole stream from its `started`: what came before it is void.
    fn begin_anew(&mut self) -> Vec<Event> {
        let repetition = self.repetition.take();
        self.text.clear();
        self.skills.clear();
        repetition
            .into_iter()
            .flat_map(|repetition| repetition.events)
            .map(|event| self.hand_out(event))
            .collect()
    }

    fn hand_out(&mut self, event: Event) -> Event {
        match &event {
            Event::Started(_) => self.has_begun = true,
            Event::TextDelta(TextDelta { text }) => self.text.push_str(text),
            Event::SkillCall(_) | Event::SkillResult(_) => self.skills.push(event.clone()),
            Event::Completed(_) => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{SkillCall, TurnCompleted, TurnStarted};

    fn started() -> Event {
        Event::Started(TurnStarted::default())
    }

    fn text(text: &str) -> Event {
        let text = text.to_owned();
        Event::TextDelta(TextDelta { text })
    }

    fn skill_call(id: &str) -> Event {
        let id = id.to_owned();
        Event::SkillCall(SkillCall {
            id,
            ..Default::default()
        })
    }

    fn completed() -> Event {
        Event::Completed(TurnCompleted::default())
    }

    /// What a caller gets of several posts, of which all but the last one break.
    fn got(posts: &[&[Event]]) -> Vec<Event> {
        let mut progress = Progress::default();
        let mut got = Vec::new();
        for (index, post) in posts.iter().enumerate() {
            if index > 0 {
                progress.post_again();
            }
            got.extend(post.iter().flat_map(|event| progress.accept(event.clone())));
        }
        got
    }

    #[test]
    fn one_post_is_handed_out_as_it_is() {
        let post = [started(), text("Hi"), skill_call("1"), text("!"), completed()];
        assert_eq!(got(&[&post]), post);
    }

    #[test]
    fn repeated_text_is_skipped_wherever_it_is_cut() {
        let events = got(&[
            &[started(), text("häß"), text("lich")],
            &[started(), text("h"), text("ä"), text("ßli")],
            &[started(), text("häßlich 🦜"), text(" ja"), completed()],
        ]);
        assert_eq!(
            events,
            [
                started(),
                text("häß"),
                text("lich"),
                text(" 🦜"),
                text(" ja"),
                completed()
            ]
        );
    }

    #[test]
    fn characters_that_begin_with_the_same_byte_differ() {
        let events = got(&[&[started(), text("ä")], &[started(), text("ö"), completed()]]);
        assert_eq!(events, [started(), text("ä"), started(), text("ö"), completed()]);
    }

    #[test]
    fn repeated_skill_events_are_skipped_each_once_in_any_order() {
        let (one, two) = (skill_call("1"), skill_call("2"));
        let events = got(&[
            &[started(), one.clone(), two.clone()],
            &[started(), two.clone(), one.clone(), one.clone(), completed()],
        ]);
        assert_eq!(events, [started(), one.clone(), two, one, completed()]);
    }

    #[test]
    fn a_break_before_the_first_event_is_not_seen() {
        let post = [started(), text("Hi"), completed()];
        assert_eq!(got(&[&[], &post]), post);
    }

    #[test]
    fn another_reply_begins_again() {
        let events = got(&[
            &[started(), text("One"), skill_call("1")],
            &[started(), text("O"), skill_call("2"), text("h!"), completed()],
        ]);
        let void = [started(), text("One"), skill_call("1"), skill_call("2")];
        let anew = [started(), text("O"), skill_call("2"), text("h!"), completed()];
        assert_eq!(events, [&void[..], &anew[..]].concat());
    }

    #[test]
    fn a_shorter_reply_begins_again() {
        for shorter in [&[started(), text("Hi"), completed()][..], &[started(), completed()]] {
            let first = [started(), text("Hi"), skill_call("1")];
            assert_eq!(got(&[&first, shorter]), [&first[..], shorter].concat());
        }
    }

    #[test]
    fn skills_of_a_void_beginning_are_not_expected_again() {
        let anew = [started(), text("Two")];
        let events = got(&[
            &[started(), skill_call("1"), text("One")],
            &anew,
            &[started(), text("Two"), completed()],
        ]);
        let void = [started(), skill_call("1"), text("One")];
        assert_eq!(events, [&void[..], &anew, &[completed()]].concat());
    }

    #[test]
    fn a_reply_that_began_again_is_what_the_next_post_is_compared_with() {
        let events = got(&[
            &[started(), text("One")],
            &[started(), text("Two")],
            &[started(), text("Two it is"), completed()],
        ]);
        assert_eq!(
            events,
            [
                started(),
                text("One"),
                started(),
                text("Two"),
                text(" it is"),
                completed()
            ]
        );
    }
}
