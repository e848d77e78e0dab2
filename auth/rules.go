package auth

// DefaultPolicy returns the rules that Nova had in 2011 (its EC2 role map), completed by what that forgot. Each call returns a
// new map, which the caller may change before the policy is used.
//
//   - To look, and what concerns one's own key pairs: every member.
//   - Instances and images: sysadmin and projectmanager.
//   - Security groups and floating addresses: netadmin and projectmanager.
//   - Members of a project: projectmanager. Nova left them to the cloud's administrators alone.
//   - Hosts, networks, flavors, users, projects, quotas, and all that spans projects: administrators.
func DefaultPolicy() Policy {
	var (
		admin    = Rule{}
		look     = Rule{Member: true}
		own      = Rule{Personal: true}
		sys      = Rule{Roles: []string{ProjectManager, SysAdmin}}
		makes    = Rule{Roles: []string{ProjectManager, SysAdmin}, Owned: true}
		manager  = Rule{Roles: []string{ProjectManager}}
		net      = Rule{Roles: []string{ProjectManager, NetAdmin}}
		netMakes = Rule{Roles: []string{ProjectManager, NetAdmin}, Owned: true}
	)
	return Policy{Rules: map[string]Rule{
		"auth:keypair:create": own,
		"auth:keypair:delete": own,
		"auth:keypair:get":    own,
		"auth:keypair:import": own,
		"auth:keypair:list":   own,

		"auth:member:list":   look,
		"auth:member:remove": manager,
		"auth:member:set":    manager,

		"auth:project:create": admin,
		"auth:project:delete": admin,
		"auth:project:get":    look,
		"auth:project:list":   own, // those that the caller is a member of
		"auth:project:update": admin,

		"auth:quota:get": look,
		"auth:quota:set": admin,

		"auth:user:create": admin,
		"auth:user:delete": admin,
		"auth:user:get":    own, // oneself
		"auth:user:list":   admin,
		"auth:user:update": admin,

		"compute:console":   sys,
		"compute:get":       look,
		"compute:list":      look,
		"compute:list:all":  admin,
		"compute:migrate":   admin,
		"compute:pause":     sys,
		"compute:reboot":    sys,
		"compute:resume":    sys,
		"compute:run":       makes,
		"compute:run:host":  admin,
		"compute:start":     sys,
		"compute:stop":      sys,
		"compute:terminate": sys,

		"compute:fixed-ip:add":    sys,
		"compute:fixed-ip:remove": sys,
		"compute:limits:set":      admin,
		"compute:volume:attach":   sys,
		"compute:volume:detach":   sys,

		"compute:flavor:create": admin,
		"compute:flavor:delete": admin,
		"compute:flavor:get":    look,
		"compute:flavor:list":   look,

		"compute:host:disable": admin,
		"compute:host:enable":  admin,
		"compute:host:get":     admin,
		"compute:host:list":    admin,

		"event:list":     look,
		"event:list:all": admin,

		"image:delete":   sys,
		"image:download": look,
		"image:get":      look,
		"image:list":     look,
		"image:publish":  sys, // EC2: ModifyImageAttribute
		"image:register": makes,
		"image:share":    sys,
		"image:update":   sys,
		"image:upload":   sys,

		"network:create": admin,
		"network:delete": admin,
		"network:get":    look,
		"network:list":   look,

		"network:range:create": admin,
		"network:range:delete": admin,
		"network:range:list":   admin,

		"network:floating:allocate":     netMakes,
		"network:floating:associate":    net,
		"network:floating:disassociate": net,
		"network:floating:list":         look,
		"network:floating:pool:create":  admin,
		"network:floating:pool:delete":  admin,
		"network:floating:release":      net,

		"network:group:create":      netMakes,
		"network:group:delete":      net,
		"network:group:get":         look,
		"network:group:list":        look,
		"network:group:rule:add":    net,
		"network:group:rule:remove": net,
		"network:group:set":         net,

		"volume:attach":       sys,
		"volume:connection":   sys,
		"volume:create":       makes,
		"volume:delete":       sys,
		"volume:detach":       sys,
		"volume:detach:force": admin,
		"volume:extend":       sys,
		"volume:get":          look,
		"volume:host:list":    admin,
		"volume:image":        sys,
		"volume:list":         look,
		"volume:list:all":     admin,

		"volume:snapshot:create": makes,
		"volume:snapshot:delete": sys,
		"volume:snapshot:get":    look,
		"volume:snapshot:list":   look,
	}}
}
