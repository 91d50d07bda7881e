// Minimal client of a judge server, which compares two responses.
// Run: ./generate.sh, then go run . [HOST:PORT]
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	pb "judge-client/judgepb"
)

func main() {
	server := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		server = os.Args[1]
	}
	if err := compare(server); err != nil {
		fmt.Fprintf(os.Stderr, "error: %s: %v\n", server, err) // err starts with the status code
		os.Exit(1)
	}
}

func compare(server string) error {
	connection, err := grpc.Dial(server, grpc.WithInsecure()) // TLS: grpc.WithTransportCredentials
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // a judge on a CPU is slow
	defer cancel()

	question := []*pb.Message{{Role: pb.Role_ROLE_USER, Content: "My parcel is three days late."}}
	reply, err := pb.NewJudgeServiceClient(connection).ComparePair(ctx, &pb.ComparePairRequest{
		Conversation: question,
		ResponseA:    "I am sorry. I will call the depot now and write to you by noon.",
		ResponseB:    "Someone will look into it.",
	})
	if err != nil {
		return err
	}
	judgment := reply.GetJudgment()
	if abstention := judgment.GetAbstention(); abstention != nil { // it has no probability
		fmt.Printf("%v %v: %s\n", judgment.Verdict, abstention.Reason, abstention.Detail)
		return nil
	}
	fmt.Printf("%v %.3f\n", judgment.Verdict, judgment.GetProbA())
	return nil
}
