package chat.palaver.example;

import java.util.regex.Pattern;

/** Makes the texts of models, skills and servers safe to print in a terminal. */
final class Printable {
    /**
     * Control characters except line feeds and tabs, controls of the direction of text, and other invisible characters.
     * Models and skills could use them to control the terminal, or to deceive its reader.
     */
    private static final Pattern UNPRINTABLE =
            Pattern.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\x{61c}\\x{115f}"
                    + "\\x{1160}\\x{17b4}\\x{17b5}\\x{180e}\\x{200b}\\x{200e}\\x{200f}\\x{2028}-\\x{202e}\\x{2060}-\\x{206f}"
                    + "\\x{3164}\\x{feff}\\x{ffa0}\\x{fff0}-\\x{fffb}\\x{1bca0}-\\x{1bca3}\\x{1d173}-\\x{1d17a}"
                    + "\\x{e0000}-\\x{e0fff}]");

    private Printable() {}

    /** Returns a text without its unprintable characters. Emoji and texts in all scripts stay readable. */
    static String printable(String text) {
        return UNPRINTABLE.matcher(text).replaceAll("");
    }
}
