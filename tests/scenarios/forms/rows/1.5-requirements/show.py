import annotated_types

print(annotated_types.__name__)
