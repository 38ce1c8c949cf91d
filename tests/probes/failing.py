import ssl

context = ssl.create_default_context()
raise ImportError(f"this module can't be had: {context.verify_mode.name}")
