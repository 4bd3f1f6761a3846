package chat.palaver.support;

import static java.util.concurrent.TimeUnit.SECONDS;

import java.util.concurrent.Future;

/** Waits with a time limit. */
public final class Waiting {
    private Waiting() {}

    public static <T> T until(Future<T> event) throws Exception {
        return event.get(30, SECONDS);
    }
}
