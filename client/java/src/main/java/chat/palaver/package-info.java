/**
 * The client of Palaver: assistants over gRPC.
 *
 * <p>{@link chat.palaver.PalaverClient} is for ordinary, blocking code, {@link chat.palaver.PalaverAsyncClient} for
 * futures and reactive streams. Requests are given and events come out as the messages of the contract, which are the
 * classes of {@link chat.palaver.v1}; what goes wrong is a {@link chat.palaver.PalaverException}.
 */
package chat.palaver;
