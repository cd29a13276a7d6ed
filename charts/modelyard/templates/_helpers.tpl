{{- define "modelyard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, with the chart's where it isn't in it. Short enough for every suffix. */}}
{{- define "modelyard.fullname" -}}
{{- $name := include "modelyard.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "modelyard.selector" -}}
app.kubernetes.io/name: {{ include "modelyard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "modelyard.labels" -}}
{{ include "modelyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "modelyard.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (printf "%s-operator" (include "modelyard.fullname" .)) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: write the name of a ServiceAccount that exists, or serviceAccount.create: true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "modelyard.tlsSecret" -}}
{{- default (printf "%s-status-tls" (include "modelyard.fullname" .)) .Values.statusServer.tls.secretName }}
{{- end }}

{{/* repository:tag or repository@digest of a value like .Values.image. */}}
{{- define "modelyard.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .version .image.tag) }}
{{- end }}
{{- end }}

{{/* What the operator may do in the namespaces that it watches: no secrets, no roles, no exec. */}}
{{- define "modelyard.rules" -}}
- apiGroups: [modelyard.dev]
  resources: [modeltrainings, modelservices]
  verbs: [get, list, watch]
- apiGroups: [modelyard.dev]
  resources: [modeltrainings]
  verbs: [delete]  # ttlSecondsAfterFinished
- apiGroups: [modelyard.dev]
  resources: [modeltrainings/status, modelservices/status]
  verbs: [patch]
# children name their parent as controller and block its deletion; some clusters ask for this permission then
- apiGroups: [modelyard.dev]
  resources: [modeltrainings/finalizers, modelservices/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods, services, persistentvolumeclaims]
  verbs: [create, delete, get, list, patch, watch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, delete, get, list, patch, watch]
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [create, delete, get, list, patch, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, delete, get, list, patch, watch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [create, delete, get, list, patch, watch]
# where the Gateway API, KEDA, Volcano or the coscheduling plugin are installed
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [create, delete, get, list, patch]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [create, delete, get, list, patch]
- apiGroups: [scheduling.volcano.sh, scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [create, get, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, patch]
{{- end }}

{{/* A binding of one of the roles to the operator: (dict "root" . "kind" "ClusterRole" "name" … "namespace" …). */}}
{{- define "modelyard.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "modelyard.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "modelyard.serviceAccount" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
