/**
 * Control characters except line feeds and tabs, controls of the direction of text, and other invisible characters. Models
 * and skills could use them to control the terminal, or to deceive its reader.
 */
const UNPRINTABLE =
  // eslint-disable-next-line no-control-regex, no-misleading-character-class -- the class has such characters
  /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;

/** Returns a text without its unprintable characters. Emoji and texts in all scripts stay readable. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, "");
}
