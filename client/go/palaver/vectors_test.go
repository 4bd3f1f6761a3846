package palaver_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/internal/vectors"
	"github.com/palaver-chat/palaver/client/go/palaver"
)

func TestEveryFileOfVectorsIsRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors.Folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if files == nil {
		t.Skip("this is not a clone of the repository")
	}
	for i, file := range files {
		files[i] = filepath.Base(file)
	}
	read := []string{
		vectors.Breaks, vectors.LocalTargets, vectors.Pauses, vectors.Replays, vectors.ServiceConfig,
		vectors.Terminal,
	}
	if !slices.Equal(files, read) { // both are sorted
		t.Errorf("the files are %q, of which the tests read %q", files, read)
	}
}

func TestReplays(t *testing.T) {
	t.Parallel()
	for _, vector := range vectors.Load[vectors.Replay](t, vectors.Replays) {
		t.Run(vector.Name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			var answers []answer
			for _, post := range vector.Posts {
				answers = append(answers, answerTo(t, post))
			}
			// If the client does not stop posting, the last answer, which is not a break, ends the reply.
			answers = append(answers, answer{status.Error(codes.FailedPrecondition, "there is one post too many")})
			server.Script("PostUserQuery", answers...)
			var delivered []palaver.Event
			var failure *palaver.Error
			for event, err := range newClient(t, server.Target).PostUserQuery(background(t), hello).Events() {
				if errors.As(err, &failure) {
					break
				}
				delivered = append(delivered, event)
			}
			var expected []palaver.Event
			for _, event := range vector.Delivered {
				expected = append(expected, eventOf(response(t, event)))
			}
			if !slices.EqualFunc(delivered, expected, proto.Equal) {
				t.Errorf("delivered was %v, not %v", delivered, expected)
			}
			switch want := vector.Error; {
			case want == nil && failure != nil:
				t.Errorf("the reply failed: %v", failure)
			case want != nil:
				expectError(t, failure, want.Status.Code(t), palaver.Reason(want.Reason))
			}
			expectCalls(t, server, len(vector.Posts))
		})
	}
}

func answerTo(t *testing.T, post vectors.Post) answer {
	t.Helper()
	var result answer
	for _, event := range post.Events {
		result = append(result, response(t, event))
	}
	switch code := post.Status.Code(t); {
	case post.Reason != "":
		result = append(result, scripted.Refusal(code, post.Reason, 0))
	case code != codes.OK:
		result = append(result, status.Error(code, "scripted"))
	}
	return result
}

func response(t *testing.T, event json.RawMessage) *palaver.PostUserQueryResponse {
	t.Helper()
	result := &palaver.PostUserQueryResponse{}
	if err := protojson.Unmarshal(event, result); err != nil {
		t.Fatal(err)
	}
	return result
}

// eventOf returns the event of a response, which must have one.
func eventOf(response *palaver.PostUserQueryResponse) palaver.Event {
	message := response.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("event"))
	return message.Get(field).Message().Interface()
}

func TestLocalTargets(t *testing.T) {
	t.Parallel()
	for _, vector := range vectors.Load[vectors.LocalTarget](t, vectors.LocalTargets) {
		local := vector.Local && !slices.Contains(vector.UnsupportedIn, "go")
		if vector.Target == "" {
			local = true // NewClient takes it for DefaultTarget
		}
		client, err := palaver.NewClient(vector.Target, palaver.WithToken("secret"))
		if local != (err == nil) {
			t.Errorf("%s: a client of %q with a token in the clear: %v", vector.Name, vector.Target, err)
		}
		if err == nil {
			_ = client.Close()
		}
	}
}
