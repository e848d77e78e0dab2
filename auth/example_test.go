package auth_test

import (
	"context"
	"fmt"
	"log"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// A host program makes a user and a project; the user then works in it.
func Example() {
	ctx := context.Background()
	records := memstate.New(memstate.Config{})
	defer records.Close()
	store, err := state.Open(ctx, state.Config{Log: records, Schema: auth.Schema()})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	service, err := auth.NewService(auth.ServiceConfig{Store: store, Policy: auth.DefaultPolicy()})
	if err != nil {
		log.Fatal(err)
	}

	admin := auth.NewContext(ctx, auth.Admin(""))
	ann, err := service.CreateUser(admin, auth.UserSpec{Name: "ann"})
	if err != nil {
		log.Fatal(err)
	}
	project, err := service.CreateProject(admin, auth.ProjectSpec{Name: "weather", ManagerID: ann.ID})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := service.SetQuota(admin, project.ID, map[auth.Resource]int{auth.Cores: 4}); err != nil {
		log.Fatal(err)
	}

	// What has authenticated ann says who she is in a project.
	caller, err := service.CallerFor(ctx, ann.ID, project.ID)
	if err != nil {
		log.Fatal(err)
	}
	asAnn := auth.NewContext(ctx, caller)
	key, private, err := service.CreateKeyPair(asAnn, auth.KeyPairSpec{Name: "laptop"})
	fmt.Println(caller.Roles, key.Type, len(private) > 0, err)

	_, err = service.CreateUser(asAnn, auth.UserSpec{Name: "bob"})
	fmt.Println(err != nil)
	err = store.Update(ctx, func(tx *state.Tx) error {
		return auth.CheckQuota(tx, project.ID, auth.Amounts{Cores: 8}, auth.Amounts{Cores: 1})
	})
	fmt.Println(err)
	// Output:
	// [projectmanager] ssh-ed25519 true <nil>
	// true
	// quota exceeded: cores: limit 4, in use 1, asked 8
}
