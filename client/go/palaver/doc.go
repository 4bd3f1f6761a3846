// Package palaver is a client for Palaver, which serves assistants over gRPC. It creates assistants, posts user queries
// to them and streams their replies.
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
// Requests and events are the generated messages of the contract, palaver.v1, where every field is documented. This
// package has aliases for them, so that programs need not import the generated package. Optional numbers are pointers,
// because zero differs from unset: Temperature: new(0.0).
//
// # Contexts
//
// A call has the deadline of its context or, if there is none, the timeout of [WithTimeout]. Canceling the context ends
// the call immediately, at the server too. OnDisconnect of the request then decides whether the turn continues.
//
// # Errors
//
// Every error of a call is an [*Error]. Its Status is gRPC's, and its Reason is the exact cause:
//
//	var failure *palaver.Error
//	if errors.As(err, &failure) && failure.Reason == palaver.ReasonAssistantNotFound {
//
// An [*Error] also works with errors.Is for [context.Canceled] and [context.DeadlineExceeded], and with gRPC's
// status.FromError.
package palaver
