// Package palaver is the client of Palaver, assistants over gRPC: it creates assistants, posts user queries to them and
// streams their replies.
//
//	client, err := palaver.NewClient("127.0.0.1:50051")
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	reply := client.PostUserQuery(ctx, &palaver.PostUserQueryRequest{Id: "support-42", UserMessage: "Hello!"})
//	for text, err := range reply.Text() {
//		if err != nil {
//			return err
//		}
//		fmt.Print(text)
//	}
//
// Requests and events are the generated messages of the contract, palaver.v1, which documents every field. This package
// has short names for them, so that programs need not import the generated one. Optional numbers are pointers, so that
// zero and unset both have a meaning: Temperature: new(0.0).
//
// # Contexts
//
// A call has the deadline of its context; without one, that of [WithTimeout], or else none. Cancelling the context ends
// the call at once, at the server too. What becomes of the turn of a reply then is up to its OnDisconnect.
//
// # Errors
//
// Every error of a call is an [*Error]. Its Status is gRPC's, and its Reason says exactly what happened:
//
//	var failure *palaver.Error
//	if errors.As(err, &failure) && failure.Reason == palaver.ReasonAssistantNotFound {
//
// It also works with errors.Is for [context.Canceled] and [context.DeadlineExceeded], and with gRPC's status.FromError.
package palaver
