package chat.palaver;

import chat.palaver.v1.ListMessagesRequest;
import chat.palaver.v1.ListMessagesResponse;
import chat.palaver.v1.Message;
import java.util.Collections;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.function.Function;

/** Iterates over the messages of all pages and fetches each page when it is needed. */
final class MessageIterator implements Iterator<Message> {
    private final Function<ListMessagesRequest, ListMessagesResponse> fetch;
    private Iterator<Message> page = Collections.emptyIterator();

    /** The request for the next page, or null after the last one. */
    private ListMessagesRequest request;

    MessageIterator(ListMessagesRequest request, Function<ListMessagesRequest, ListMessagesResponse> fetch) {
        this.request = request;
        this.fetch = fetch;
    }

    @Override
    public boolean hasNext() {
        while (!page.hasNext() && request != null) {
            ListMessagesResponse response = fetch.apply(request);
            page = response.getMessagesList().iterator();
            String token = response.getNextPageToken();
            request = token.isEmpty()
                    ? null
                    : request.toBuilder().setPageToken(token).build();
        }
        return page.hasNext();
    }

    @Override
    public Message next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        return page.next();
    }
}
