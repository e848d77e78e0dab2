package auth

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// verdict is what becomes of a call: yes, no (PermissionDenied) or ? (Unauthenticated).
func verdict(err error) string {
	switch {
	case errdefs.IsUnauthorized(err):
		return "?"
	case errdefs.IsPermissionDenied(err):
		return "-"
	case err == nil:
		return "y"
	}
	return err.Error()
}

// people are those of the matrix, as callers of what belongs to project "mine", in the order of its columns.
func people() []Caller {
	mine := func(id string, roles ...string) Caller { return Caller{UserID: id, ProjectID: "mine", Roles: roles} }
	return []Caller{
		mine("manager", ProjectManager), mine("sysadmin", SysAdmin), mine("netadmin", NetAdmin), mine("member"), mine("itsec", ITSec),
		{UserID: "tenant", ProjectID: "other", Roles: []string{ProjectManager, SysAdmin, NetAdmin}},
		{UserID: "nowhere", Roles: []string{SysAdmin}},
		{UserID: "admin", Admin: true, ProjectID: "other"},
		{UserID: "homeless admin", Admin: true},
		{},
	}
}

// Every action that has a rule, asked for in project "mine" by each of the people. What a rule is for, the columns
// say: m(anager) s(ysadmin) n(etadmin) p(lain member) i(tsec) t(enant of another project) h(omeless) A(dmin)
// a(dmin in no project) and nobody.
func TestEveryActionForEveryone(t *testing.T) {
	kinds := map[string]string{
		//          msnpithAa0
		"admin":   "-------yy?",
		"look":    "yyyyy--yy?",
		"sys":     "yy-----yy?",
		"manager": "y------yy?",
		"net":     "y-y----yy?",
	}
	of := map[string]string{}
	for kind, actions := range map[string]string{
		"admin": `auth:project:create auth:project:delete auth:project:update auth:quota:set auth:user:create auth:user:delete
			auth:user:list auth:user:update compute:list:all compute:migrate compute:run:host compute:flavor:create compute:flavor:delete compute:limits:set
			compute:host:disable compute:host:enable compute:host:get compute:host:list event:list:all network:create network:delete
			network:range:create network:range:delete network:range:list
			network:floating:pool:create network:floating:pool:delete
			volume:detach:force volume:host:list volume:list:all`,
		"look": `auth:keypair:create auth:keypair:delete auth:keypair:get auth:keypair:import auth:keypair:list auth:member:list
			auth:project:get auth:project:list auth:quota:get auth:user:get compute:get compute:list compute:flavor:get
			compute:flavor:list event:list image:download image:get image:list network:get network:list
			network:floating:list network:group:get network:group:list
			volume:get volume:list volume:snapshot:get volume:snapshot:list`,
		"sys": `compute:console compute:pause compute:reboot compute:resume compute:run compute:start compute:stop
			compute:terminate image:delete image:publish image:register image:share image:update image:upload
			compute:fixed-ip:add compute:fixed-ip:remove compute:volume:attach compute:volume:detach volume:attach volume:connection volume:create volume:delete volume:detach volume:extend volume:image volume:snapshot:create
			volume:snapshot:delete`,
		"manager": `auth:member:remove auth:member:set`,
		"net":     `network:floating:allocate network:floating:associate network:floating:disassociate network:floating:release network:group:create network:group:delete network:group:rule:add network:group:rule:remove network:group:set`,
	} {
		for _, action := range strings.Fields(actions) {
			of[action] = kind
		}
	}
	policy := DefaultPolicy()
	for action := range policy.Rules {
		require.Contains(t, of, action, "say here for whom this action is")
	}
	for action, kind := range of {
		require.Contains(t, policy.Rules, action)
		got := ""
		for _, c := range people() {
			_, err := policy.Authorize(NewContext(t.Context(), c), action, "mine")
			got += verdict(err)
		}
		require.Equal(t, kinds[kind], got, action)
	}
}

// With project "", the caller's own is meant; only what is personal, and what spans projects, works in none.
func TestActionsOfCallersInNoProject(t *testing.T) {
	policy := DefaultPolicy()
	for action, rule := range policy.Rules {
		_, err := policy.Authorize(NewContext(t.Context(), Caller{UserID: "ann", Roles: []string{SysAdmin, ProjectManager}}), action, "")
		require.Equal(t, rule.Personal, err == nil, "%s: %v", action, err)
		_, err = policy.Authorize(NewContext(t.Context(), Admin("")), action, "")
		require.Equal(t, !rule.Owned, err == nil, "%s: %v", action, err)
	}
}

func TestWhatThePolicyDoesNotNameIsDenied(t *testing.T) {
	for _, p := range []Policy{{}, DefaultPolicy()} {
		_, err := p.Authorize(NewContext(t.Context(), Admin("p")), "compute:fly", "p")
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		require.ErrorContains(t, err, "compute:fly")
	}
	one := DefaultPolicy()
	delete(one.Rules, "auth:user:create")
	require.Contains(t, DefaultPolicy().Rules, "auth:user:create", "each call makes a new map")
}

// calls makes each of the actions of s, on what belongs to project p and user u; r prepares them.
func calls(r rig, s *Service, p Project, u User) map[string]func(ctx context.Context) error {
	fresh := func(prefix string) string { return prefix + uuid.NewString() }
	key := func() string {
		k, _, err := r.CreateKeyPair(admin(r.t), KeyPairSpec{UserID: u.ID, Name: fresh("key")})
		require.NoError(r.t, err)
		return k.Name
	}
	const line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
	return map[string]func(ctx context.Context) error{
		"auth:keypair:create": func(ctx context.Context) error {
			_, _, err := s.CreateKeyPair(ctx, KeyPairSpec{UserID: u.ID, Name: fresh("key")})
			return err
		},
		"auth:keypair:import": func(ctx context.Context) error {
			_, err := s.ImportKeyPair(ctx, KeyPairSpec{UserID: u.ID, Name: fresh("key"), PublicKey: line})
			return err
		},
		"auth:keypair:delete": func(ctx context.Context) error { return s.DeleteKeyPair(ctx, u.ID, key()) },
		"auth:keypair:get":    func(ctx context.Context) error { _, err := s.GetKeyPair(ctx, u.ID, key()); return err },
		"auth:keypair:list":   func(ctx context.Context) error { _, err := s.ListKeyPairs(ctx, u.ID); return err },
		"auth:member:list":    func(ctx context.Context) error { _, err := s.ListMembers(ctx, p.ID); return err },
		"auth:member:set": func(ctx context.Context) error {
			_, err := s.SetMember(ctx, p.ID, r.user(fresh("new")).ID, []string{SysAdmin})
			return err
		},
		"auth:member:remove": func(ctx context.Context) error {
			leaver := r.user(fresh("leaver"))
			r.member(p, leaver)
			return s.RemoveMember(ctx, p.ID, leaver.ID)
		},
		"auth:project:create": func(ctx context.Context) error {
			_, err := s.CreateProject(ctx, ProjectSpec{Name: fresh("project")})
			return err
		},
		"auth:project:delete": func(ctx context.Context) error { return s.DeleteProject(ctx, r.project(fresh("old"), "").ID) },
		"auth:project:get":    func(ctx context.Context) error { _, err := s.GetProject(ctx, p.ID); return err },
		"auth:project:list":   func(ctx context.Context) error { _, err := s.ListProjects(ctx); return err },
		"auth:project:update": func(ctx context.Context) error { _, err := s.UpdateProject(ctx, p.ID, ProjectChange{}); return err },
		"auth:quota:get":      func(ctx context.Context) error { _, _, err := s.GetQuota(ctx, p.ID); return err },
		"auth:quota:set": func(ctx context.Context) error {
			_, err := s.SetQuota(ctx, p.ID, map[Resource]int{Cores: 3})
			reset := s.ResetQuota(ctx, p.ID)
			require.Equal(r.t, err == nil, reset == nil)
			return err
		},
		"auth:user:create": func(ctx context.Context) error {
			_, err := s.CreateUser(ctx, UserSpec{Name: fresh("user"), Roles: []string{CloudAdmin}})
			return err
		},
		"auth:user:delete": func(ctx context.Context) error { return s.DeleteUser(ctx, r.user(fresh("leaver")).ID) },
		"auth:user:get":    func(ctx context.Context) error { _, err := s.GetUser(ctx, u.ID); return err },
		"auth:user:list":   func(ctx context.Context) error { _, err := s.ListUsers(ctx); return err },
		"auth:user:update": func(ctx context.Context) error {
			_, err := s.SetUserRoles(ctx, u.ID, nil)
			return err
		},
	}
}

// The whole of the Service, called by: the owner of what it is about, the manager of another project, a member of the
// project without a role, a caller in no project, an administrator, a caller that is nobody.
func TestEveryCallByEveryone(t *testing.T) {
	r := newRig(t)
	owner, tenant, member, root := r.user("owner"), r.user("tenant"), r.user("member"), r.user("root", CloudAdmin)
	mine, other := r.project("mine", owner.ID), r.project("other", tenant.ID)
	r.member(mine, member)
	callers := []context.Context{r.as(owner, mine.ID), r.as(tenant, other.ID), r.as(member, mine.ID), r.as(owner, ""), r.as(root, ""), t.Context()}
	want := map[string]string{
		"auth:keypair:create": "y--yy?", "auth:keypair:delete": "y--yy?", "auth:keypair:get": "y--yy?",
		"auth:keypair:import": "y--yy?", "auth:keypair:list": "y--yy?",
		"auth:member:list": "y-y-y?", "auth:member:remove": "y---y?", "auth:member:set": "y---y?",
		"auth:project:create": "----y?", "auth:project:delete": "----y?", "auth:project:get": "y-y-y?",
		"auth:project:list": "yyyyy?", "auth:project:update": "----y?",
		"auth:quota:get": "y-y-y?", "auth:quota:set": "----y?",
		"auth:user:create": "----y?", "auth:user:delete": "----y?", "auth:user:get": "y--yy?", "auth:user:list": "----y?",
		"auth:user:update": "----y?",
	}
	all := calls(r, r.Service, mine, owner)
	for action := range DefaultPolicy().Rules {
		if strings.HasPrefix(action, "auth:") {
			require.Contains(t, all, action, "nothing uses this rule")
		}
	}
	for action, call := range all {
		got := ""
		for _, ctx := range callers {
			got += verdict(call(ctx))
		}
		require.Equal(t, want[action], got, action)

		without := DefaultPolicy()
		delete(without.Rules, action)
		bare, err := NewService(ServiceConfig{Store: r.store, Policy: without})
		require.NoError(t, err)
		require.Equal(t, "-", verdict(calls(r, bare, mine, owner)[action](callers[4])), "%s goes past the policy", action)
	}
}

// Each action that code asks for has a rule, and each rule is asked for by code, of whatever package.
func TestRulesAndCodeAgree(t *testing.T) {
	action := regexp.MustCompile(`^(auth|compute|event|image|network|volume):[a-z]+(:[a-z]+)*$`)
	asked := map[string]string{}
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || name == "auth/rules.go" {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && action.MatchString(s) {
					asked[s] = name
				}
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	rules := DefaultPolicy().Rules
	for action, file := range asked {
		require.Contains(t, rules, action, "%s asks for it", file)
	}
	// Reserved: what the services of the domains will do.
	for action := range rules {
		if domain, _, _ := strings.Cut(action, ":"); asked[action] == "" && domain != "compute" && domain != "network" && domain != "image" {
			t.Errorf("nothing asks for %s", action)
		}
	}
}
