"""Results for other programs, study by study: ``results`` as JSON with a schema, ``structured_report`` as DICOM for an
archive of images, ``slicer`` as points for 3D Slicer. Each takes :class:`pipeline.run.result.Graded` studies. The
networks themselves go as ``onnx``.
"""
