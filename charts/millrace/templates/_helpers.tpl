{{- define "millrace.labels" -}}
app.kubernetes.io/name: millrace
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "millrace.operator.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "millrace.store.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: store
{{- end }}

{{/* What every container of ours is allowed: nothing. */}}
{{- define "millrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "millrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the operator may do in the namespaces it watches. It never reads a Secret. */}}
{{- define "millrace.operator.rules" -}}
- apiGroups: [millrace.dev]
  resources: [datasets, trainingjobs, modelversions, inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [millrace.dev]
  resources: [datasets/status, trainingjobs/status, modelversions/status, inferenceservices/status]
  verbs: [get, patch, update]
# Retrainings are applied, which takes patch; versions are only ever created.
- apiGroups: [millrace.dev]
  resources: [trainingjobs]
  verbs: [create, patch]
- apiGroups: [millrace.dev]
  resources: [modelversions]
  verbs: [create]
- apiGroups: [millrace.dev]
  # Owner references with blockOwnerDeletion need this where the OwnerReferencesPermissionEnforcement plugin is on.
  resources: [datasets/finalizers, trainingjobs/finalizers, modelversions/finalizers, inferenceservices/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Pods are only ever changed in labels, annotations and owners: where a model is swapped in them (capacity: Swap). None is deleted; but where the
# OwnerReferencesPermissionEnforcement plugin is on, only who may delete an object may change its owners.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Nothing of these is watched: a cluster need not have the Gateway API. With roles only, Gateways of other namespaces stay unseen.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, gatewayclasses]
  verbs: [get]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
