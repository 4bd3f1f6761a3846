//! Delivers each event of a reply once, even if the turn is posted several times. No I/O.

use crate::Event;
use crate::v1::TextDelta;

/// How many posts in a row may bring nothing new before the caller gets the error: each may be a paid model call.
const MAX_FRUITLESS_POSTS: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct ReplayFilter {
    is_started: bool,
    /// True if the turn was posted more than once.
    is_repeated: bool,
    post: Post,
    /// How many posts in a row, up to the previous one, brought nothing new.
    fruitless_before: u32,
    /// All text that was delivered.
    text: String,
    /// All skill events that were delivered.
    skills: Vec<Event>,
    replay: Option<Replay>,
}

/// What one post of a turn has brought so far.
#[derive(Debug, Default)]
struct Post {
    is_answered: bool,
    /// True if the caller got text or skill events from it.
    has_delivered: bool,
    has_restarted: bool,
}

impl Post {
    /// Returns whether it brought something new. A reply that starts over does not: it replaces what was there before.
    fn extends_the_reply(&self) -> bool {
        self.has_delivered && !self.has_restarted
    }

    /// Returns whether the server ran or joined the turn, with nothing new so far.
    fn is_fruitless(&self) -> bool {
        self.is_answered && !self.extends_the_reply()
    }
}

/// A stream that starts with events that were delivered before.
#[derive(Debug)]
struct Replay {
    /// All events of the stream so far but `progress`, in case it turns out to be a different reply.
    events: Vec<Event>,
    /// The length of the repeated text, in bytes.
    text_length: usize,
    /// The delivered skill events that the stream has yet to repeat.
    expected_skills: Vec<Event>,
}

impl ReplayFilter {
    /// Returns whether the turn may be posted again, now that the current post has broken off.
    pub(crate) fn may_repeat(&self) -> bool {
        self.fruitless_posts() < MAX_FRUITLESS_POSTS
    }

    /// Returns how many posts in a row, up to the current one, brought nothing new.
    fn fruitless_posts(&self) -> u32 {
        if self.post.extends_the_reply() {
            0
        } else {
            self.fruitless_before + u32::from(self.is_repeated && self.post.is_fruitless())
        }
    }

    /// Expects the events of the turn from the first one again, because the turn is posted again.
    pub(crate) fn begin_replay(&mut self) {
        self.fruitless_before = self.fruitless_posts();
        self.is_repeated = true;
        self.post = Post::default();
        if self.is_started {
            self.replay = Some(Replay {
                events: Vec::new(),
                text_length: 0,
                expected_skills: self.skills.clone(),
            });
        }
    }

    /// Takes the next event of the stream and returns the events to deliver.
    pub(crate) fn accept(&mut self, event: Event) -> Vec<Event> {
        self.post.is_answered = true;
        let Some(replay) = &mut self.replay else {
            return vec![self.deliver(event)];
        };
        if !matches!(event, Event::Progress(_)) {
            replay.events.push(event.clone());
        }
        match event {
            Event::Started(_) => Vec::new(),
            Event::Progress(_) => vec![event],
            Event::TextDelta(TextDelta { text }) => self.match_text(&text),
            Event::SkillCall(_) | Event::SkillResult(_) => {
                match replay.expected_skills.iter().position(|expected| *expected == event) {
                    Some(index) => {
                        replay.expected_skills.swap_remove(index);
                        Vec::new()
                    }
                    None => vec![self.deliver(event)],
                }
            }
            Event::Completed(_) => {
                if replay.text_length < self.text.len() || !replay.expected_skills.is_empty() {
                    self.restart()
                } else {
                    vec![event]
                }
            }
        }
    }

    /// Skips text that was delivered before and delivers the rest; restarts the reply if the text differs.
    fn match_text(&mut self, text: &str) -> Vec<Event> {
        let Some(replay) = &mut self.replay else {
            return Vec::new();
        };
        let expected = &self.text[replay.text_length..];
        if expected.starts_with(text) {
            replay.text_length += text.len();
            Vec::new()
        } else if let Some(new) = text.strip_prefix(expected) {
            replay.text_length = self.text.len() + new.len();
            let text = new.to_owned();
            vec![self.deliver(Event::TextDelta(TextDelta { text }))]
        } else {
            self.restart()
        }
    }

    /// Delivers the new stream from its `started`, which voids all events before it.
    fn restart(&mut self) -> Vec<Event> {
        let replay = self.replay.take();
        self.post.has_restarted = true;
        self.text.clear();
        self.skills.clear();
        replay
            .into_iter()
            .flat_map(|replay| replay.events)
            .map(|event| self.deliver(event))
            .collect()
    }

    /// Records an event as delivered and returns it.
    fn deliver(&mut self, event: Event) -> Event {
        match &event {
            Event::Started(_) => self.is_started = true,
            Event::TextDelta(TextDelta { text }) => {
                self.post.has_delivered = true;
                self.text.push_str(text);
            }
            Event::SkillCall(_) | Event::SkillResult(_) => {
                self.post.has_delivered = true;
                self.skills.push(event.clone());
            }
            Event::Progress(_) | Event::Completed(_) => {}
        }
        event
    }
}
