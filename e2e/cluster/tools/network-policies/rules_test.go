package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

func pod(namespace, app, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{PodIP: ip, Phase: corev1.PodRunning},
	}
}

// chainOf is the body of a chain in the rules for three pods, two in namespace a and one in b, under one policy of namespace a.
func chainOf(t *testing.T, chain, policy string) string {
	t.Helper()
	parsed := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(policy), &parsed.Spec); err != nil {
		t.Fatal(err)
	}
	parsed.Namespace, parsed.Name = "a", "under-test"
	rules, err := ruleset(world{
		pods:       []*corev1.Pod{pod("a", "server", "10.0.0.1"), pod("a", "router", "10.0.0.2"), pod("b", "router", "10.0.0.3")},
		namespaces: map[string]labels.Set{"a": {"name": "a"}, "b": {"name": "b"}},
		policies:   []*networkingv1.NetworkPolicy{parsed},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, body, found := strings.Cut(rules, "chain "+chain+" {\n")
	if !found {
		return ""
	}
	body, _, _ = strings.Cut(body, "\n  }")
	return strings.Join(strings.Fields(body), " ")
}

func TestRules(t *testing.T) {
	cases := []struct{ name, chain, policy, want string }{
		{
			"a policy without rules lets only the pod itself in", "in-10-0-0-1",
			`{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}`,
			"ip saddr 10.0.0.1 return counter drop",
		},
		{
			"a pod that no policy selects has no chain", "in-10-0-0-2",
			`{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}`,
			"",
		},
		{
			"a policy does not reach another namespace", "in-10-0-0-3",
			`{podSelector: {}, policyTypes: [Ingress]}`,
			"",
		},
		{
			"a pod selector alone means the policy's namespace, a named port the selected pod's", "in-10-0-0-1",
			`{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress],
			  ingress: [{from: [{podSelector: {matchLabels: {app: router}}}], ports: [{port: http}]}]}`,
			"ip saddr 10.0.0.1 return ip saddr 10.0.0.2 tcp dport 8080 return counter drop",
		},
		{
			"both selectors in one peer must match", "in-10-0-0-1",
			`{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress],
			  ingress: [{from: [{namespaceSelector: {matchLabels: {name: b}}, podSelector: {matchLabels: {app: router}}}]}]}`,
			"ip saddr 10.0.0.1 return ip saddr 10.0.0.3 return counter drop",
		},
		{
			"egress to a block with an exception and a range of ports", "out-10-0-0-2",
			`{podSelector: {matchLabels: {app: router}}, policyTypes: [Egress],
			  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{protocol: UDP, port: 53, endPort: 54}]}]}`,
			"ip daddr 10.0.0.2 return ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16 } udp dport 53-54 return counter drop",
		},
		{
			"a rule without peers and ports allows everybody", "in-10-0-0-1",
			`{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], ingress: [{}]}`,
			"ip saddr 10.0.0.1 return ip saddr 0.0.0.0/0 return counter drop",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := chainOf(t, c.chain, c.policy); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestAPodThatEndedHasNoAddress(t *testing.T) {
	ended := pod("a", "server", "10.0.0.1")
	ended.Status.Phase = corev1.PodSucceeded
	if hasAddress(ended) || !hasAddress(pod("a", "server", "10.0.0.1")) {
		t.Error("an address belongs to a pod until it ends")
	}
}
