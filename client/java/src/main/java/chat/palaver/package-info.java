/**
 * The client of Palaver: assistants over gRPC.
 *
 * <p>{@link chat.palaver.PalaverClient} has blocking calls, {@link chat.palaver.PalaverAsyncClient} futures and reactive
 * streams. Requests, responses and events are the messages of the contract, which are the classes of {@link
 * chat.palaver.v1}. Errors are {@link chat.palaver.PalaverException}s.
 */
package chat.palaver;
